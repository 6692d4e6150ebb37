"""The Karcher mean of models on the sphere: the direction with the least squared angle to all of theirs (Karcher 1977).

The mean stays in the span of the models, so the iteration runs on its coefficients, with nothing but the models' dot
products, and the tensors are read twice however many iterations there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.methods.slerp import ANGLE_SCOPE
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.survey import Survey
from genepool.merging.weighted_sum import Gram, SumFactors, WeightedSum

if TYPE_CHECKING:
    import numpy as np


def karcher_factors(products: np.ndarray[Any, Any], max_iter: int, tol: float) -> list[float]:
    """Factors of vectors that give their Karcher mean on the sphere, at their mean length.

    With u the mean and u_i the vectors' directions, each round steps along `T = mean_i log_u(u_i)`:
    `u <- cos|T| u + sin|T|/|T| T`, where `log_u(v) = a/sin(a) (v - cos(a) u)` and a is the angle between u and v.

    Args:
        products: the vectors' dot products, `(k, k)` float64. Vectors of length zero have no direction and are left
            out.
        max_iter: most rounds.
        tol: a step shorter than this, in radians, is the last.
    """
    import numpy as np

    lengths = np.sqrt(np.maximum(products.diagonal(), 0))
    has_length = lengths > 0
    if not has_length.any():
        return [0.0] * len(lengths)
    share = has_length / has_length.sum()
    # Row i holds the coefficients of the direction u_i; `mean` holds those of u.
    directions = np.diag(np.divide(1, lengths, out=np.zeros_like(lengths), where=has_length))

    def length(coefficients: np.ndarray[Any, Any]) -> float:
        return float(np.sqrt(max(coefficients @ products @ coefficients, 0.0)))

    mean = share @ directions
    # Opposed directions cancel, and any of them is as good a beginning as another.
    mean = mean / length(mean) if length(mean) >= tol else directions[int(share.argmax())]
    for _ in range(max_iter):
        cos = np.clip(directions @ products @ mean, -1, 1)
        angle = np.arccos(cos)
        # At angle zero a/sin(a) is one; opposite u it has no value, and no direction leads there.
        stretch = np.divide(angle, np.sin(angle), out=(angle < 1).astype(np.float64), where=np.sin(angle) > 1e-12)
        step = (share * stretch) @ (directions - cos[:, None] * mean)
        size = length(step)
        if size < tol:
            break
        mean = np.cos(size) * mean + np.sin(size) / size * step
        mean = mean / length(mean)
    factors: list[float] = (mean * (share @ lengths)).tolist()
    return factors


class KarcherMean(Gram):
    """One pass over the models' dot products; `factors` of the mean afterwards."""

    def __init__(self, method: WeightedSum, max_iter: int, tol: float) -> None:
        super().__init__(method)
        self._max_iter, self._tol = max_iter, tol
        self.factors: list[float] = []

    def finish(self, number: int) -> None:
        # A tensor without entries was never seen, and asks for no factors.
        if self.total.ndim == 2:
            self.factors = karcher_factors(self.total, self._max_iter, self._tol)


@register
class Karcher(WeightedSum):
    """The point of the sphere with the least squared geodesic distance to all models, at their mean length."""

    name = "karcher"
    source = "Riemannian center of mass, Karcher 1977; as karcher in mergekit, arXiv:2403.13257"
    when = "To average any number of models as slerp averages two: it keeps their length and has nothing to tune."
    formula = "mean_i |x_i| argmin_u sum_i angle(u, x_i)^2,  |u| = 1"
    inputs = "tensors"
    base = "unused"
    parameters = (
        Parameter("max_iter", 10, "Largest number of iterations.", kind=int, low=1, source="mergekit"),
        Parameter("tol", 1e-5, "Stop after a step that is shorter than this angle.", low=0, source="mergekit"),
        ANGLE_SCOPE,
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return KarcherMean(self, shared["max_iter"], shared["tol"])

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("max_iter", "tol", "scope")

    def factors(
        self,
        site: Site,
        shared: Mapping[str, Any],
        per_model: Sequence[Mapping[str, Any]],
        survey: KarcherMean,
        has_base: bool,
    ) -> SumFactors:
        return SumFactors(survey.factors)
