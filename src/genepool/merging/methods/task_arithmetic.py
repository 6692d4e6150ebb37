"""Task arithmetic (Ilharco et al., arXiv:2212.04089): task vectors added to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.methods.linear import combination
from genepool.merging.parameters import Parameter

if TYPE_CHECKING:
    import torch

WEIGHT = Parameter("weight", 1.0, "Factor of this model's task vector; negative to unlearn.", per_model=True)
NORMALIZE = Parameter("normalize", False, "Divide the sum by the sum of the weights.", kind=bool)


def weighted_sum(deltas: torch.Tensor, weights: Sequence[float], normalize: bool) -> torch.Tensor:
    """`sum_i w_i t_i`, divided by `sum_i w_i` when asked and that is not zero; may write into the first delta."""
    total = combination(deltas, weights)
    if normalize and abs(sum(weights)) > 1e-8:
        total /= sum(weights)
    return total


@register
class TaskArithmetic(Method):
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

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        total = weighted_sum(group.deltas, group.column("weight"), group.shared["normalize"])
        return total.mul_(group.shared["lambda"]).add_(group.base)
