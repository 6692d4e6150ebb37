"""Isotropic merging in the common subspace (Marczak et al., arXiv:2502.04959): the sum, all directions as strong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.kernels import spectral
from genepool.merging.group import TensorGroup
from genepool.merging.matrix_method import EMBEDDINGS, LAMBDA, WEIGHT, MatrixMethod
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register

if TYPE_CHECKING:
    import torch

DIRECTIONS = Parameter(
    "directions",
    "all",
    "Level all min(rows, columns) directions, or only those the task vectors span: those with a singular value above "
    "a millionth of the largest. The rest, which adapters have, are arbitrary vectors.",
    kind=str,
    choices=("all", "spanned"),
    source="the authors' code levels all",
)


@register
class IsoC(MatrixMethod):
    """The sum of the task vectors with every singular value replaced by their mean.

    With `directions: all` a sum of low rank is completed by LAPACK's arbitrary singular vectors, as in the authors'
    code, and the mean counts its zeros.
    """

    name = "iso_c"
    source = "No Task Left Behind, Marczak et al. 2025, arXiv:2502.04959"
    when = "Several full fine-tunes and no data; for adapters, set `directions: spanned`."
    formula = "th0 + lambda mean(s) U V^T;  U diag(s) V^T = SVD(sum_i t_i)"
    parameters = (WEIGHT, LAMBDA, DIRECTIONS, EMBEDDINGS)

    def working_entries(self, rows: int, columns: int, models: int) -> int:
        return spectral.polar_entries(rows, columns)

    def merged_matrix(self, group: TensorGroup) -> torch.Tensor:
        total = self.weighted_sum(group)
        polar, values = spectral.polar_(total, complete=group.shared["directions"] == "all")
        return polar.mul_(float(values.mean()) if len(values) else 0.0)
