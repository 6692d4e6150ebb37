"""RAM (Yuan et al., arXiv:2601.13572): average where sparse task vectors overlap, keep whole what one alone changed."""

from __future__ import annotations

from typing import Any

from genepool import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register

EPSILON = Parameter("epsilon", 1e-5, "A change up to this size counts as zero.", low=0, source="the authors' threshold")


@register
class Ram(Method):
    """Per entry, the mean over the models that changed it."""

    name = "ram"
    source = "RAM, Yuan et al. 2026, arXiv:2601.13572"
    when = "Models trained by reinforcement, whose changes are sparse and lie in different places."
    formula = "th0 + mean of t_i over those i with |t_i| > epsilon"
    inputs = "deltas"
    base = "required"
    on_arrays = True
    parameters = (EPSILON,)

    def merge(self, group: TensorGroup, survey: Any) -> Any:
        ones = [1.0] * len(group.per_model)
        return kernels.add_scaled(group.base, kernels.overlap_mean(group.deltas, group.shared["epsilon"], ones))
