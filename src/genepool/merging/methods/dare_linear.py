"""DARE (Yu et al., arXiv:2311.03099): drop most of each task vector at random, rescale the rest, add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from genepool import kernels
from genepool.kernels.buffers import sliceable
from genepool.merging.group import TensorGroup
from genepool.merging.methods.task_arithmetic import NORMALIZE, WEIGHT
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.sparse import SparseSum, TrimSurvey

if TYPE_CHECKING:
    from genepool.kernels.stored import StoredVectors

DENSITY = Parameter(
    "density",
    0.1,
    "Probability that an entry of this model's task vector is kept.",
    per_model=True,
    low=0,
    high=1,
    source="drop rate 0.9, section 4",
)
RESCALE = Parameter(
    "rescale",
    "density",
    "Make up for what was dropped: by 1/density, by the ratio of the tensor's L1 norms, or not at all.",
    kind=str,
    choices=("density", "l1", "none"),
    source="eq. 2: 1/(1-p)",
)


@register
class DareLinear(SparseSum):
    """Task arithmetic over randomly dropped and rescaled task vectors."""

    name = "dare_linear"
    source = "DARE, Yu et al. 2024, arXiv:2311.03099"
    when = "Fine-tunes that moved little (changes of about 0.005); fails on models trained far from the base."
    formula = "th0 + lambda * sum_i w_i m_i t_i / density,  m_i ~ Bernoulli(density)"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        WEIGHT,
        DENSITY,
        RESCALE,
        Parameter("lambda", 1.0, "Factor of the summed task vectors."),
        NORMALIZE,
    )

    def prepared(self, group: TensorGroup) -> Any:
        # Rescaling can wait until its factor is known: trimming looks at each vector by itself.
        deltas = group.deltas
        rows = sliceable(deltas)
        for i, density in enumerate(group.column("density")):
            if density < 1:
                kernels.drop(rows[i], density, *group.stream(i))
        return deltas

    def stored(self, group: TensorGroup) -> StoredVectors | None:
        if group.stored is None:
            return None
        streams = [group.stream(i) for i in range(len(group.per_model))]
        return group.stored.dropped(group.column("density"), [key for key, _ in streams], streams[0][1])

    def factors(self, group: TensorGroup, survey: TrimSurvey | None) -> list[float]:
        if group.shared["rescale"] == "density":
            return [1 / density if density > 0 else 1.0 for density in group.column("density")]
        return super().factors(group, survey)
