"""DELLA (Deep et al., arXiv:2406.11617): drop entries at random, small ones more often, and make up for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.methods.task_arithmetic import NORMALIZE, WEIGHT
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.sparse import SparseSum

if TYPE_CHECKING:
    from genepool.kernels.stored import StoredVectors

DROP = (
    Parameter(
        "density", 0.7, "Mean probability that an entry of this model's task vector is kept.", per_model=True,
        low=0, high=1, source="the authors' code: drop rate 0.3",
    ),
    Parameter(
        "epsilon", 0.07,
        "How far the probability goes below and above the density from the smallest to the largest entry of a row; "
        "less where it would leave 0 to 1.",
        per_model=True, low=0, high=0.5, source="the authors' code: a window of 0.14",
    ),
    Parameter(
        "rescale", "density",
        "Make up for what was dropped: each entry by one over its own probability, or by the ratio of the tensor's L1 "
        "norms, or not at all.",
        kind=str, choices=("density", "l1", "none"), source="section 3: 1/(1-p_i)",
    ),
)  # fmt: skip
LAMBDA = Parameter("lambda", 1.1, "Factor of the merged task vector.", source="the authors' code")


@register
class DellaLinear(SparseSum):
    """Task arithmetic on task vectors whose small entries are dropped more often than large ones."""

    name = "della_linear"
    source = "DELLA-Merging, Deep et al. 2024, arXiv:2406.11617"
    when = "As DARE, when large changes matter more than small ones."
    formula = "th0 + lambda * sum_i w_i m_i t_i / p_i,  m_i ~ Bernoulli(p_i),  p_i = density - e + 2 e rank_row(|t_i|)"
    remembers_drops = True
    grain = "row"
    parameters = (WEIGHT, *DROP, LAMBDA, NORMALIZE)

    def stored(self, group: TensorGroup) -> StoredVectors | None:
        # What is dropped depends on the ranks within a row.
        return None if any(density < 1 for density in group.column("density")) else group.stored

    def prepared(self, group: TensorGroup) -> Any:
        deltas = group.deltas
        for i, (density, epsilon) in enumerate(zip(group.column("density"), group.column("epsilon"), strict=True)):
            # A window that reached beyond 0 or 1 would change the mean share that is kept.
            half = min(epsilon, density, 1 - density)
            if density == 1:
                continue
            rescale = group.shared["rescale"] == "density"
            kernels.drop_by_rank(deltas[i], density - half, density + half, *group.stream(i), rescale=rescale)
        return deltas
