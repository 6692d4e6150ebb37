"""DARE (Yu et al., arXiv:2311.03099): drop most of each task vector at random, rescale the rest, add up."""

from __future__ import annotations

from typing import Any

import torch

from genepool.merging.method import Method, TensorGroup, register
from genepool.merging.methods.task_arithmetic import NORMALIZE, WEIGHT, weighted_sum
from genepool.merging.parameters import Parameter

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
    "Make up for what was dropped: by 1/density, by the ratio of L1 norms, or not at all.",
    kind=str,
    choices=("density", "l1", "none"),
    source="eq. 2: 1/(1-p)",
)


def drop_and_rescale(delta: torch.Tensor, density: float, rescale: str, generator: torch.Generator) -> torch.Tensor:
    """Keeps each entry with probability `density` and rescales the kept ones.

    With `l1` the kept entries get the L1 norm the whole had; nothing is rescaled where either norm vanishes.
    """
    if density >= 1:
        return delta
    kept = torch.where(torch.rand(delta.shape, generator=generator) < density, delta, 0.0)
    if rescale == "density" and density > 0:
        kept /= density
    elif rescale == "l1":
        before, after = float(delta.abs().sum()), float(kept.abs().sum())
        if before >= 1e-7 and after >= 1e-7:
            kept *= before / after
    return kept


def dropped_deltas(group: TensorGroup) -> list[torch.Tensor]:
    """Every model's task vector after DARE; the mask belongs to (seed, tensor, model)."""
    return [
        drop_and_rescale(delta, density, group.shared["rescale"], group.generator(i))
        for i, (delta, density) in enumerate(zip(group.deltas, group.column("density"), strict=True))
    ]


@register
class DareLinear(Method):
    """Task arithmetic over randomly dropped and rescaled task vectors."""

    name = "dare_linear"
    source = "DARE, Yu et al. 2024, arXiv:2311.03099"
    when = "Fine-tunes that moved little (changes of about 0.005); fails on models trained far from the base."
    formula = "th0 + lambda * sum_i w_i m_i t_i / density,  m_i ~ Bernoulli(density)"
    kind = "deltas"
    base = "required"
    parameters = (
        WEIGHT,
        DENSITY,
        RESCALE,
        Parameter("lambda", 1.0, "Factor of the summed task vectors."),
        NORMALIZE,
    )

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        total = weighted_sum(dropped_deltas(group), group.column("weight"), group.shared["normalize"])
        return group.base + total.mul_(group.shared["lambda"])
