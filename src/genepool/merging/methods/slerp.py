"""Spherical interpolation between two models (Shoemake 1985), tensor by tensor or over the whole vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.parameters import REQUIRED, Parameter, Site
from genepool.merging.registry import register
from genepool.merging.survey import Survey
from genepool.merging.weighted_sum import Gram, SumFactors, WeightedSum

if TYPE_CHECKING:
    import numpy as np

ANGLE_SCOPE = Parameter(
    "scope",
    "tensor",
    "Take angles and lengths within each tensor or over the whole vector (model).",
    kind=str,
    choices=("tensor", "model"),
)
# Beyond this cosine the arc is so flat that the sines cancel; the chord is used instead.
_PARALLEL = 0.9995


def arc_factors(products: np.ndarray[Any, Any], t: float, parallel: float = _PARALLEL) -> np.ndarray[Any, Any]:
    """Factors of two vectors that give the point at share `t` of the arc between them.

    The angle is between the directions; the vectors themselves keep their lengths.

    Args:
        products: their dot products, `(..., 2, 2)` float64.
        t: 0 gives the first, 1 the second.
        parallel: cosine, in size, beyond which the chord is used.

    Returns:
        `(..., 2)` float64.
    """
    import numpy as np

    squares = np.diagonal(products, axis1=-2, axis2=-1)
    lengths = np.sqrt(np.where(squares > 1e-16, squares, 1.0)).prod(-1)
    cos = np.clip(products[..., 0, 1] / lengths, -1, 1)
    flat = np.abs(cos) > parallel
    # Where the chord is used the arc's sine may be zero; any other angle keeps the division quiet.
    angle = np.where(flat, 1.0, np.arccos(cos))
    arc = np.stack([np.sin((1 - t) * angle), np.sin(t * angle)], -1) / np.sin(angle)[..., None]
    return np.where(flat[..., None], [1 - t, t], arc)


@register
class Slerp(WeightedSum):
    """The point at position `t` on the arc from the base (or the first model) to the other model."""

    name = "slerp"
    source = "Animating rotation with quaternion curves, Shoemake 1985"
    when = "Exactly two models of about equal worth; gradients over `t` blend different layers differently."
    formula = "sin((1-t)a)/sin(a) x0 + sin(ta)/sin(a) x1,  a the angle between x0 and x1"
    inputs = "tensors"
    base = "counted"
    models = (2, 2)
    parameters = (Parameter("t", REQUIRED, "0 gives the base (or the first model), 1 the other."), ANGLE_SCOPE)

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return Gram(self)

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("scope",)

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors:
        return SumFactors(arc_factors(survey.total, shared["t"]).tolist())
