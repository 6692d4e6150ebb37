"""Layer swapping (Bandarkar et al., arXiv:2410.01335): the middle of a task expert between a language expert's ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool.errors import InputError
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.weighted_sum import SumFactors, WeightedSum

_COUNT = "A whole number counts them; a number below 1 is a share of the depth, rounded."


@register
class LayerSwap(WeightedSum):
    """Bottom and top layers of the second model (the language expert), the middle of the first (the task expert).

    Between them, transition layers are the average of both, and so is what belongs to no layer: embeddings, final norm
    and head.
    """

    name = "layer_swap"
    source = "Layer swapping, Bandarkar et al. 2025, arXiv:2410.01335"
    when = "A task was learned in one language and is needed in another, which has an expert but no data of the task."
    formula = "x_2 in bottom and top layers, (x_1 + x_2)/2 in transition layers and outside, x_1 in the middle"
    inputs = "tensors"
    base = "unused"
    models = (2, 2)
    parameters = (
        Parameter("bottom", 0.125, f"Layers at the bottom that come from the second model. {_COUNT}", low=0),
        Parameter("top", 0.125, f"Layers at the top that come from the second model. {_COUNT}", low=0),
        Parameter("transition", 0.0625, f"Averaged layers on either side of the middle. {_COUNT}", low=0),
        Parameter("transition_weight", 0.5, "Share of the second model where both are averaged.", low=0, high=1),
    )

    def check(self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]]) -> None:
        share_of_second(site, **shared)

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors:
        second = share_of_second(site, **shared)
        return SumFactors([1 - second, second])


def share_of_second(site: Site, bottom: float, top: float, transition: float, transition_weight: float) -> float:
    """The second model's share at one tensor: 0, 1, or `transition_weight`.

    Raises:
        InputError: a count that is no whole number, or more layers at the ends than there are.
    """
    if site.layer is None or site.depth is None:
        return transition_weight
    low = _layers("bottom", bottom, site.depth)
    high = site.depth - _layers("top", top, site.depth)
    width = _layers("transition", transition, site.depth)
    if low + width > high - width:
        raise InputError(
            f"bottom, top and transitions take {low + site.depth - high + 2 * width} layers of {site.depth}",
            where=site.name,
            fix="Give smaller numbers",
        )
    if site.layer < low or site.layer >= high:
        return 1.0
    if site.layer < low + width or site.layer >= high - width:
        return transition_weight
    return 0.0


def _layers(name: str, value: float, depth: int) -> int:
    if value < 1:
        return round(value * depth)
    if value != int(value):
        raise InputError(f"{name} must be a whole number of layers or a share below 1, got {value:g}")
    return int(value)
