"""Task arithmetic (Ilharco et al., arXiv:2212.04089): task vectors added to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from genepool.merging.method import Method, TensorGroup, register
from genepool.merging.parameters import Parameter

WEIGHT = Parameter("weight", 1.0, "Factor of this model's task vector; negative to unlearn.", per_model=True)
NORMALIZE = Parameter("normalize", False, "Divide the sum by the sum of the weights.", kind=bool)


def weighted_sum(deltas: Sequence[torch.Tensor], weights: Sequence[float], normalize: bool) -> torch.Tensor:
    """`sum_i w_i t_i`, divided by `sum_i w_i` when asked and that is not zero."""
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total.add_(delta, alpha=weight)
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
    kind = "deltas"
    base = "required"
    parameters = (
        WEIGHT,
        Parameter("lambda", 0.3, "Factor of the summed task vectors.", source="8 vision tasks, section 4"),
        NORMALIZE,
    )

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        total = weighted_sum(group.deltas, group.column("weight"), group.shared["normalize"])
        return group.base + total.mul_(group.shared["lambda"])
