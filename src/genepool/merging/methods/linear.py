"""Weighted average of models: model soup (Wortsman et al., arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool.errors import InputError
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.weighted_sum import SumFactors, WeightedSum


@register
class Linear(WeightedSum):
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

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors:
        weights = [own["weight"] for own in per_model]
        if not shared["normalize"]:
            return SumFactors(weights)
        if sum(weights) == 0:
            raise InputError("the weights add up to zero", where=site.name, fix="Change them, or set normalize: false")
        return SumFactors(weights, sum(weights))
