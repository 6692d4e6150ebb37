"""Spherical interpolation between two models (Shoemake 1985), tensor by tensor."""

from __future__ import annotations

import math
from typing import Any

import torch

from genepool.merging.method import Method, TensorGroup, register
from genepool.merging.parameters import REQUIRED, Parameter

# Beyond this cosine the arc is so flat that the sines cancel; the chord is used instead.
_PARALLEL = 0.9995


def slerp(v0: torch.Tensor, v1: torch.Tensor, t: float) -> torch.Tensor:
    """The point at share `t` of the arc from `v0` to `v1`, both taken as one flat vector.

    The angle is between the directions; the vectors themselves keep their lengths.
    """
    norms = [float(torch.linalg.vector_norm(v)) for v in (v0, v1)]
    dot = float(torch.dot(v0.reshape(-1), v1.reshape(-1)))
    cos = dot / math.prod(norm if norm > 1e-8 else 1.0 for norm in norms)
    if abs(cos) > _PARALLEL:
        return torch.lerp(v0, v1, t)
    angle = math.acos(cos)
    return v0 * (math.sin((1 - t) * angle) / math.sin(angle)) + v1 * (math.sin(t * angle) / math.sin(angle))


@register
class Slerp(Method):
    """The point at share `t` of the arc from the base (or the first model) to the other model."""

    name = "slerp"
    source = "Animating rotation with quaternion curves, Shoemake 1985"
    when = "Exactly two models of about equal worth; gradients over `t` blend different layers differently."
    formula = "sin((1-t)a)/sin(a) x0 + sin(ta)/sin(a) x1,  a the angle between x0 and x1"
    kind = "tensors"
    base = "optional"
    models = (1, 2)
    parameters = (Parameter("t", REQUIRED, "0 gives the base (or the first model), 1 the other."),)

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        ends = group.tensors if len(group.tensors) == 2 else [group.base, *group.tensors]
        return slerp(ends[0], ends[1], group.shared["t"])
