"""Spherical interpolation between two models (Shoemake 1985), tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.methods.linear import combination
from genepool.merging.parameters import REQUIRED, Parameter
from genepool.merging.survey import Sums, Survey, gram

if TYPE_CHECKING:
    import torch

# Beyond this cosine the arc is so flat that the sines cancel; the chord is used instead.
_PARALLEL = 0.9995


def arc_factors(products: torch.Tensor, t: float) -> tuple[float, float]:
    """Factors of two vectors that give the point at share `t` of the arc between them.

    The angle is between the directions; the vectors themselves keep their lengths.

    Args:
        products: their dot products, `(2, 2)`.
        t: 0 gives the first, 1 the second.
    """
    (a, dot), (_, b) = products.tolist()
    lengths = [math.sqrt(square) if square > 1e-16 else 1.0 for square in (a, b)]
    cos = dot / math.prod(lengths)
    if abs(cos) > _PARALLEL:
        return 1 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


@register
class Slerp(Method):
    """The point at share `t` of the arc from the base (or the first model) to the other model."""

    name = "slerp"
    source = "Animating rotation with quaternion curves, Shoemake 1985"
    when = "Exactly two models of about equal worth; gradients over `t` blend different layers differently."
    formula = "sin((1-t)a)/sin(a) x0 + sin(ta)/sin(a) x1,  a the angle between x0 and x1"
    inputs = "tensors"
    base = "optional"
    models = (1, 2)
    parameters = (Parameter("t", REQUIRED, "0 gives the base (or the first model), 1 the other."),)

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return Sums(lambda group: gram(_ends(group)))

    def merge(self, group: TensorGroup, survey: Sums) -> torch.Tensor:
        return combination(_ends(group), arc_factors(survey.total, group.shared["t"]))


def _ends(group: TensorGroup) -> torch.Tensor:
    import torch

    return group.tensors if len(group.per_model) == 2 else torch.stack([group.base, *group.tensors])
