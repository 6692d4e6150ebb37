"""Spherical interpolation between two models (Shoemake 1985), tensor by tensor or over the whole vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.methods.linear import combination
from genepool.merging.parameters import REQUIRED, Parameter
from genepool.merging.survey import Sums, Survey, gram

if TYPE_CHECKING:
    import torch

ANGLE_SCOPE = Parameter(
    "scope",
    "tensor",
    "Take angles and lengths within each tensor or over the whole vector (model).",
    kind=str,
    choices=("tensor", "model"),
)
# Beyond this cosine the arc is so flat that the sines cancel; the chord is used instead.
_PARALLEL = 0.9995


def arc_factors(products: torch.Tensor, t: float, parallel: float = _PARALLEL) -> torch.Tensor:
    """Factors of two vectors that give the point at share `t` of the arc between them.

    The angle is between the directions; the vectors themselves keep their lengths.

    Args:
        products: their dot products, `(..., 2, 2)` float64.
        t: 0 gives the first, 1 the second.
        parallel: cosine, in size, beyond which the chord is used.

    Returns:
        `(..., 2)` float64.
    """
    import torch

    squares = products.diagonal(dim1=-2, dim2=-1)
    lengths = torch.where(squares > 1e-16, squares, 1.0).sqrt().prod(-1)
    cos = (products[..., 0, 1] / lengths).clamp(-1, 1)
    flat = cos.abs() > parallel
    # Where the chord is used the arc's sine may be zero; any other angle keeps the division quiet.
    angle = torch.where(flat, 1.0, cos.acos())
    arc = torch.stack([((1 - t) * angle).sin(), (t * angle).sin()], -1) / angle.sin().unsqueeze(-1)
    chord = torch.tensor([1 - t, t], dtype=products.dtype, device=products.device)
    return torch.where(flat.unsqueeze(-1), chord, arc)


@register
class Slerp(Method):
    """The point at share `t` of the arc from the base (or the first model) to the other model."""

    name = "slerp"
    source = "Animating rotation with quaternion curves, Shoemake 1985"
    when = "Exactly two models of about equal worth; gradients over `t` blend different layers differently."
    formula = "sin((1-t)a)/sin(a) x0 + sin(ta)/sin(a) x1,  a the angle between x0 and x1"
    inputs = "tensors"
    base = "counted"
    models = (2, 2)
    parameters = (Parameter("t", REQUIRED, "0 gives the base (or the first model), 1 the other."), ANGLE_SCOPE)

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return Sums(lambda group: gram(_ends(group)))

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("scope",)

    def merge(self, group: TensorGroup, survey: Sums) -> torch.Tensor:
        return combination(_ends(group), arc_factors(survey.total, group.shared["t"]).tolist())


def _ends(group: TensorGroup) -> torch.Tensor:
    import torch

    return torch.cat([group.base.unsqueeze(0), group.tensors]) if group.has_base else group.tensors
