"""Weighted average of models: model soup (Wortsman et al., arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.parameters import Parameter

if TYPE_CHECKING:
    import torch


def combination(vectors: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """`sum_i f_i v_i` of `(k, ...)` vectors, added up in the order given; may write into the first vector."""
    total = vectors[0].mul_(factors[0])
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total.add_(vector, alpha=factor)
    return total


@register
class Linear(Method):
    """`sum_i w_i x_i`, divided by `sum_i w_i` when `normalize`. Without weights it is the uniform soup.

    `genepool soup` makes the greedy one.
    """

    name = "linear"
    source = "Model soups, Wortsman et al. 2022, arXiv:2203.05482"
    when = "Fine-tunes of one base on the same task, or the plainest baseline for any merge."
    formula = "sum_i w_i x_i / sum_i w_i"
    inputs = "tensors"
    base = "unused"
    parameters = (
        Parameter("weight", 1.0, "Share of this model.", per_model=True, source="uniform soup"),
        Parameter("normalize", True, "Divide by the sum of the weights.", kind=bool),
    )

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        weights = group.column("weight")
        total = combination(group.tensors, weights)
        if group.shared["normalize"]:
            if sum(weights) == 0:
                raise InputError(
                    "the weights add up to zero", where=group.name, fix="Change them, or set normalize: false"
                )
            total /= sum(weights)
        return total
