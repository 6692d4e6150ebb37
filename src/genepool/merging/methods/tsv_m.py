"""Task singular vectors (Gargiulo et al., arXiv:2412.00081): every task keeps its strongest directions, kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.kernels import spectral
from genepool.merging.group import TensorGroup
from genepool.merging.matrix_method import EMBEDDINGS, LAMBDA, WEIGHT, MatrixMethod
from genepool.merging.registry import register

if TYPE_CHECKING:
    import torch


@register
class TsvM(MatrixMethod):
    """The top r/n singular directions of each of n tasks, side by side, made orthogonal on both sides.

    Directions with a singular value of zero are left out. They carry nothing, and which vectors LAPACK gives them is
    arbitrary; the authors' code keeps them, and in changes of low rank they then turn the others when all are made
    orthogonal. Directions that two tasks share exactly are kept once, with the sum of what both say. A matrix with
    fewer rows or columns than there are models has no direction for each, and is averaged as other tensors are.
    """

    name = "tsv_m"
    source = "Task Singular Vectors, Gargiulo et al. 2024, arXiv:2412.00081"
    when = "Several fine-tunes with different skills, and no data. Strong without tuning, for full models and adapters."
    formula = (
        "th0 + lambda P S Q^T; P, Q = polar factors of [U_1 .. U_n], [V_1 .. V_n] from the top r/n of each SVD(t_i)"
    )
    parameters = (WEIGHT, LAMBDA, EMBEDDINGS)

    def working_entries(self, rows: int, columns: int, models: int) -> int:
        return spectral.factorising_entries(rows, columns)

    def merged_matrix(self, group: TensorGroup) -> torch.Tensor:
        share = min(group.rows) // len(group.per_model)
        if share == 0:
            return self.merged_rest(group)
        directions = spectral.Directions(*group.rows, share * len(group.per_model), group.device)
        for weight, delta in self.weighted_deltas(group):
            directions.add(spectral.singular_triplets(delta, share), weight)
            del delta
        return directions.orthonormal_product()
