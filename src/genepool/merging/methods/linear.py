"""Weighted average of models: model soup (Wortsman et al., arXiv:2203.05482)."""

from __future__ import annotations

from typing import Any

import torch

from genepool.errors import InputError
from genepool.merging.method import Method, TensorGroup, register
from genepool.merging.parameters import Parameter


@register
class Linear(Method):
    """`sum_i w_i x_i`, divided by `sum_i w_i` when `normalize`; equal weights give the uniform soup."""

    name = "linear"
    source = "Model soups, Wortsman et al. 2022, arXiv:2203.05482"
    when = "Fine-tunes of one base on the same task, or the plainest baseline for any merge."
    formula = "sum_i w_i x_i / sum_i w_i"
    kind = "tensors"
    base = "unused"
    parameters = (
        Parameter("weight", 1.0, "Share of this model.", per_model=True, source="uniform soup"),
        Parameter("normalize", True, "Divide by the sum of the weights.", kind=bool),
    )

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        weights = group.column("weight")
        total: torch.Tensor = group.tensors[0] * weights[0]
        for tensor, weight in zip(group.tensors[1:], weights[1:], strict=True):
            total.add_(tensor, alpha=weight)
        if group.shared["normalize"]:
            if sum(weights) == 0:
                raise InputError(
                    "the weights add up to zero", where=group.name, fix="Change them, or set normalize: false"
                )
            total /= sum(weights)
        return total
