"""Isotropic merging in common and task-specific subspaces (Marczak et al., arXiv:2502.04959), for many tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.kernels import spectral
from genepool.merging.group import TensorGroup
from genepool.merging.matrix_method import EMBEDDINGS, LAMBDA, WEIGHT, MatrixMethod
from genepool.merging.methods.iso_c import DIRECTIONS
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register

if TYPE_CHECKING:
    import torch


@register
class IsoCts(MatrixMethod):
    """Replace the weakest directions of the sum by directions of each task, then make all orthogonal and equal.

    With `directions: all` a matrix of low rank is completed by LAPACK's arbitrary singular vectors, as in the authors'
    code, and the mean counts its zeros.
    """

    name = "iso_cts"
    source = "No Task Left Behind, Marczak et al. 2025, arXiv:2502.04959"
    when = "Many full fine-tunes (eight or more) and no data; for adapters, set `directions: spanned`."
    formula = (
        "th0 + lambda mean(s) P Q^T;  P, Q = polar factors of [U_c U_1 .. U_n], [V_c V_1 .. V_n] from the top of "
        "SVD(sum_i t_i) and of each SVD(t_i - U_c U_c^T t_i)"
    )
    parameters = (
        WEIGHT,
        LAMBDA,
        Parameter(
            "common", 0.8, "Share of the directions that are the sum's; the others are divided among the tasks.",
            low=0, high=1, source="the authors' common_space_fraction",
        ),
        DIRECTIONS,
        EMBEDDINGS,
    )  # fmt: skip

    def working_entries(self, rows: int, columns: int, models: int) -> int:
        return spectral.factorising_entries(rows, columns) + rows * columns

    def merged_matrix(self, group: TensorGroup) -> torch.Tensor:
        import torch

        common, own = shares(min(group.rows), len(group.per_model), group.shared["common"])
        complete = group.shared["directions"] == "all"
        directions = spectral.Directions(*group.rows, common + own * len(group.per_model), group.device)
        directions.add(spectral.singular_triplets(self.weighted_sum(group), common, complete))
        shared = directions.left
        for weight, delta in self.weighted_deltas(group) if own else ():
            rest = torch.addmm(delta, shared, shared.mT @ delta, beta=weight, alpha=-weight)
            # All of the delta may lie in the common space; what is left of it is then rounding.
            floor = spectral.NULL * abs(weight) * float(torch.linalg.vector_norm(delta))
            del delta
            directions.add(spectral.singular_triplets(rest, own, complete, floor))
            del rest
        if directions.count == 0:
            return torch.zeros(group.rows, device=group.device)
        count = min(group.rows) if complete else directions.count
        directions.values.fill_(float(directions.values.sum()) / count)
        return directions.orthonormal_product()


def shares(rank: int, models: int, common: float) -> tuple[int, int]:
    """How many directions are the sum's, and how many each task's own, so that all are `rank` at most.

    The tasks' part is rounded to a multiple of their number, as the authors do.
    """
    own = min(round((rank - int(rank * common)) / models), rank // models)
    return rank - own * models, own
