"""Multi-way spherical interpolation (mergekit's name): the weighted mean direction at the weighted mean length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.merging.methods.slerp import ANGLE_SCOPE
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.survey import Survey
from genepool.merging.weighted_sum import Gram, SumFactors, WeightedSum

if TYPE_CHECKING:
    import numpy as np


def mean_direction_factors(products: np.ndarray[Any, Any], weights: Sequence[float], eps: float) -> list[float]:
    """Factors of vectors that give their weighted mean direction at their weighted mean length.

    The weighted sum of the directions' projections onto the sphere's tangent space at that mean is zero, so the step
    along it which the method is described with (log, sum, exp) stays where it is.

    Args:
        products: the vectors' dot products, `(k, k)` float64.
        weights: one for each.
        eps: added to every length; a mean direction shorter than this is none, and the weighted sum is taken.
    """
    import numpy as np

    w = np.asarray(weights, dtype=np.float64)
    lengths = np.sqrt(np.maximum(products.diagonal(), 0))
    directions = w / (lengths + eps)
    length = np.sqrt(max(directions @ products @ directions, 0.0))
    factors: list[float] = (w if length < eps else directions / length * (w @ lengths)).tolist()
    return factors


@register
class MultiSlerp(WeightedSum):
    """The weighted mean of the models' directions, or of their task vectors', at their weighted mean length."""

    name = "multislerp"
    source = "multislerp in mergekit, Goddard et al. 2024, arXiv:2403.13257"
    when = "To average any number of models without the loss of length that plain averaging causes."
    formula = "th0 + (sum_i w_i |t_i|) m/|m|,  m = sum_i w_i t_i/|t_i|;  without base x_i for t_i"
    inputs = "deltas"
    base = "optional"
    parameters = (
        Parameter("weight", 1.0, "Share of this model.", per_model=True),
        Parameter("normalize_weights", True, "Divide the weights by their sum.", kind=bool),
        Parameter("eps", 1e-8, "Lengths below this count as zero.", low=0, source="mergekit"),
        ANGLE_SCOPE,
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return Gram(self)

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("scope",)

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors:
        weights = [own["weight"] for own in per_model]
        if shared["normalize_weights"]:
            total = sum(weights)
            if total == 0:
                raise InputError(
                    "the weights add up to zero", where=site.name, fix="Change them, or set normalize_weights: false"
                )
            weights = [weight / total for weight in weights]
        return SumFactors(mean_direction_factors(survey.total, weights, shared["eps"]))
