"""Multi-way spherical interpolation (mergekit's name): the weighted mean direction at the weighted mean length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.methods.linear import combination
from genepool.merging.methods.slerp import ANGLE_SCOPE
from genepool.merging.parameters import Parameter
from genepool.merging.survey import Sums, Survey, gram

if TYPE_CHECKING:
    import torch


def mean_direction_factors(products: torch.Tensor, weights: Sequence[float], eps: float) -> list[float]:
    """Factors of vectors that give their weighted mean direction at their weighted mean length.

    The weighted sum of the directions' projections onto the sphere's tangent space at that mean is zero, so the step
    along it which the method is described with (log, sum, exp) stays where it is.

    Args:
        products: the vectors' dot products, `(k, k)` float64.
        weights: one for each.
        eps: added to every length; a mean direction shorter than this is none, and the weighted sum is taken.
    """
    import torch

    w = torch.tensor(weights, dtype=products.dtype)
    lengths = products.diagonal().clamp_min(0).sqrt()
    directions = w / (lengths + eps)
    length = (directions @ products @ directions).clamp_min(0).sqrt()
    factors: list[float] = (w if length < eps else directions / length * (w @ lengths)).tolist()
    return factors


@register
class MultiSlerp(Method):
    """The weighted mean of the models' directions, or of their task vectors', at their weighted mean length."""

    name = "multislerp"
    source = "multislerp in mergekit, Goddard et al. 2024, arXiv:2403.13257"
    when = "Averaging any number of models without the loss of length that plain averaging brings."
    formula = "th0 + (sum_i w_i |t_i|) m/|m|,  m = sum_i w_i t_i/|t_i|;  without base x_i for t_i"
    inputs = "deltas"
    base = "optional"
    parameters = (
        Parameter("weight", 1.0, "Share of this model.", per_model=True),
        Parameter("normalize_weights", True, "Divide the weights by their sum.", kind=bool),
        Parameter("eps", 1e-8, "Lengths below this count as none.", low=0, source="mergekit"),
        ANGLE_SCOPE,
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return Sums(lambda group: gram(group.vectors))

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        return ("scope",)

    def merge(self, group: TensorGroup, survey: Sums) -> torch.Tensor:
        weights = group.column("weight")
        if group.shared["normalize_weights"]:
            total = sum(weights)
            if total == 0:
                raise InputError(
                    "the weights add up to zero", where=group.name, fix="Change them, or set normalize_weights: false"
                )
            weights = [weight / total for weight in weights]
        merged = combination(group.vectors, mean_direction_factors(survey.total, weights, group.shared["eps"]))
        return merged.add_(group.base) if group.has_base else merged
