"""DARE (Yu et al., arXiv:2311.03099): drop most of each task vector at random, rescale the rest, add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.methods.task_arithmetic import NORMALIZE, WEIGHT, weighted_sum
from genepool.merging.parameters import Parameter
from genepool.merging.survey import Sums, Survey

if TYPE_CHECKING:
    import torch

DENSITY = Parameter(
    "density",
    0.1,
    "Probability that an entry of this model's task vector is kept.",
    per_model=True,
    low=0,
    high=1,
    source="drop rate 0.9, section 4",
)
RESCALE = Parameter(
    "rescale",
    "density",
    "Make up for what was dropped: by 1/density, by the ratio of the tensor's L1 norms, or not at all.",
    kind=str,
    choices=("density", "l1", "none"),
    source="eq. 2: 1/(1-p)",
)


def dropped_deltas(group: TensorGroup) -> torch.Tensor:
    """Every model's task vector with entries dropped at random; the mask belongs to (seed, tensor, model, place)."""
    deltas = group.deltas
    for i, density in enumerate(group.column("density")):
        if density < 1:
            deltas[i].masked_fill_(group.uniform(i) >= density, 0.0)
    return deltas


def l1_norms(group: TensorGroup) -> torch.Tensor:
    """L1 norms of every task vector before and after the drop, `(2, models)`."""
    import torch

    before = group.deltas.abs().sum((1, 2), dtype=torch.float64)
    return torch.stack([before, dropped_deltas(group).abs().sum((1, 2), dtype=torch.float64)])


def norm_ratios(norms: torch.Tensor) -> list[float]:
    """What gives each vector its L1 norm back; 1 where either norm vanishes."""
    return [before / after if before >= 1e-7 and after >= 1e-7 else 1.0 for before, after in norms.T.tolist()]


def rescaling(group: TensorGroup, norms: torch.Tensor | None) -> list[float]:
    """The factor of every dropped task vector.

    Args:
        group: gives the densities and the kind of rescaling.
        norms: totals of `l1_norms`, needed for "l1".
    """
    if group.shared["rescale"] == "density":
        return [1 / density if density > 0 else 1.0 for density in group.column("density")]
    return norm_ratios(norms) if norms is not None else [1.0] * len(group.per_model)


@register
class DareLinear(Method):
    """Task arithmetic over randomly dropped and rescaled task vectors."""

    name = "dare_linear"
    source = "DARE, Yu et al. 2024, arXiv:2311.03099"
    when = "Fine-tunes that moved little (changes of about 0.005); fails on models trained far from the base."
    formula = "th0 + lambda * sum_i w_i m_i t_i / density,  m_i ~ Bernoulli(density)"
    inputs = "deltas"
    base = "required"
    parameters = (
        WEIGHT,
        DENSITY,
        RESCALE,
        Parameter("lambda", 1.0, "Factor of the summed task vectors."),
        NORMALIZE,
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        return Sums(l1_norms) if shared["rescale"] == "l1" else None

    def merge(self, group: TensorGroup, survey: Sums | None) -> torch.Tensor:
        factors = rescaling(group, survey.total if survey else None)
        weights = group.column("weight")
        total = weighted_sum(dropped_deltas(group), [f * w for f, w in zip(factors, weights, strict=True)], False)
        if group.shared["normalize"] and abs(sum(weights)) > 1e-8:
            total /= sum(weights)
        return total.mul_(group.shared["lambda"]).add_(group.base)
