"""NearSwap (alchemonaut): walk from the base towards a model, by no more than a fixed step per entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import REQUIRED, Parameter
from genepool.merging.registry import register

if TYPE_CHECKING:
    import torch


@register
class NearSwap(Method):
    """The model's value where it is nearer than `t` to the base's; elsewhere the base's value, moved by `t`.

    The published form interpolates by the share `min(1, t / |x - th0|)`: the same values, without the division.
    """

    name = "nearswap"
    source = "NearSwap, alchemonaut 2024, of the model QuartetAnemoi-70B-t0.0001"
    when = "To add a little of one model to another. The base decides wherever they differ clearly."
    formula = "th0 + clamp(x - th0, -t, t)"
    inputs = "deltas"
    base = "required"
    models = (1, 1)
    parameters = (
        Parameter("t", REQUIRED, "The largest step of an entry, in units of the weights; 0.0001 is gentle.", low=0),
    )

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        t = group.shared["t"]
        return group.deltas[0].clamp_(-t, t).add_(group.base)
