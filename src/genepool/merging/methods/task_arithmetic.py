"""Task arithmetic (Ilharco et al., arXiv:2212.04089): task vectors added to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.weighted_sum import SumFactors, WeightedSum

WEIGHT = Parameter("weight", 1.0, "Factor of this model's task vector; negative to unlearn.", per_model=True)
NORMALIZE = Parameter("normalize", False, "Divide the sum by the sum of the weights.", kind=bool)


@register
class TaskArithmetic(WeightedSum):
    """`th0 + lambda * sum_i w_i t_i`."""

    name = "task_arithmetic"
    source = "Editing models with task arithmetic, Ilharco et al. 2023, arXiv:2212.04089"
    when = "Skills that barely touch the same weights; the first thing to try and the easiest to tune."
    formula = "th0 + lambda * sum_i w_i t_i"
    inputs = "deltas"
    base = "required"
    parameters = (
        WEIGHT,
        Parameter("lambda", 0.3, "Factor of the summed task vectors.", source="8 vision tasks, section 4"),
        NORMALIZE,
    )

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors:
        weights = [own["weight"] for own in per_model]
        # Weights that cancel are left as they are: there is no sum to divide by.
        divided = shared["normalize"] and abs(sum(weights)) > 1e-8
        return SumFactors([shared["lambda"] * weight for weight in weights], sum(weights) if divided else 1.0)
