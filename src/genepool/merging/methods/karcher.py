"""The Karcher mean of models on the sphere: the direction with the least squared angle to all of theirs (Karcher 1977).

The mean stays in the span of the models, so the iteration runs on its coefficients, with nothing but the models' dot
products, and the tensors are read twice however many iterations there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.methods.linear import combination
from genepool.merging.methods.slerp import ANGLE_SCOPE
from genepool.merging.parameters import Parameter
from genepool.merging.survey import Sums, Survey, gram

if TYPE_CHECKING:
    import torch


def karcher_factors(products: torch.Tensor, max_iter: int, tol: float) -> list[float]:
    """Factors of vectors that give their Karcher mean on the sphere, at their mean length.

    With u the mean and u_i the vectors' directions, each round steps along `T = mean_i log_u(u_i)`:
    `u <- cos|T| u + sin|T|/|T| T`, where `log_u(v) = a/sin(a) (v - cos(a) u)` and a is the angle between u and v.

    Args:
        products: the vectors' dot products, `(k, k)` float64. Vectors of length zero have no direction and are left
            out.
        max_iter: most rounds.
        tol: a step shorter than this, in radians, is the last.
    """
    import torch

    lengths = products.diagonal().clamp_min(0).sqrt()
    share = (lengths > 0).to(products.dtype)
    if not share.any():
        return [0.0] * len(lengths)
    share /= share.sum()
    # Row i holds the coefficients of the direction u_i; `mean` holds those of u.
    directions = torch.diag(torch.where(lengths > 0, 1 / lengths, 0.0))

    def length(coefficients: torch.Tensor) -> torch.Tensor:
        return (coefficients @ products @ coefficients).clamp_min(0).sqrt()

    mean = share @ directions
    # Opposed directions cancel, and any of them is as good a beginning as another.
    mean = mean / length(mean) if length(mean) >= tol else directions[int(share.argmax())]
    for _ in range(max_iter):
        cos = (directions @ products @ mean).clamp(-1, 1)
        angle = cos.acos()
        # At angle zero a/sin(a) is one; opposite u it has no value, and no direction leads there.
        stretch = torch.where(angle.sin() > 1e-12, angle / angle.sin(), (angle < 1).to(angle))
        step = (share * stretch) @ (directions - cos.unsqueeze(1) * mean)
        size = length(step)
        if size < tol:
            break
        mean = size.cos() * mean + size.sin() / size * step
        mean = mean / length(mean)
    factors: list[float] = (mean * (share @ lengths)).tolist()
    return factors


class KarcherMean(Sums):
    """One pass over the models' dot products; `factors` of the mean afterwards."""

    def __init__(self, max_iter: int, tol: float) -> None:
        super().__init__(lambda group: gram(group.tensors))
        self._max_iter, self._tol = max_iter, tol
        self.factors: list[float] = []

    def finish(self, number: int) -> None:
        # A tensor without entries was never seen, and asks for no factors.
        if self.total.dim() == 2:
            self.factors = karcher_factors(self.total, self._max_iter, self._tol)


@register
class Karcher(Method):
    """The point of the sphere with the least squared distance along it to all models, at their mean length."""

    name = "karcher"
    source = "Riemannian center of mass, Karcher 1977; as karcher in mergekit, arXiv:2403.13257"
    when = "Averaging any number of models as slerp does two: nothing is lost of their length, nothing to tune."
    formula = "mean_i |x_i| argmin_u sum_i angle(u, x_i)^2,  |u| = 1"
    inputs = "tensors"
    base = "unused"
    parameters = (
        Parameter("max_iter", 10, "Most rounds of the iteration.", kind=int, low=1, source="mergekit"),
        Parameter("tol", 1e-5, "A step shorter than this angle is the last.", low=0, source="mergekit"),
        ANGLE_SCOPE,
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return KarcherMean(shared["max_iter"], shared["tol"])

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("max_iter", "tol", "scope")

    def merge(self, group: TensorGroup, survey: KarcherMean) -> torch.Tensor:
        return combination(group.tensors, survey.factors)
