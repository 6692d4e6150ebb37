"""Exponential moving average over the checkpoints of a run: momentum weight interpolation (arXiv:2211.03186)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool.merging.parameters import REQUIRED, Parameter, Site
from genepool.merging.registry import register
from genepool.merging.weighted_sum import SumFactors, WeightedSum


def ema_factors(decay: float, count: int) -> list[float]:
    """Factors of the start and of what follows it, `count` in all, the oldest first."""
    return [decay ** (count - 1), *((1 - decay) * decay ** (count - 1 - i) for i in range(1, count))]


@register
class Ema(WeightedSum):
    """Slow weights that follow the checkpoints in the recipe's order, from the base or from the first of them.

    The paper interpolates after every optimiser step. For checkpoints that lie k steps apart, the paper's decay `a` is
    `a^k` here.
    """

    name = "ema"
    source = "Momentum-based weight interpolation, Stojanovski et al. 2022, arXiv:2211.03186"
    when = "Checkpoints of one run, in the order they were saved; with a base, to keep more of what it could do."
    formula = "slow <- decay slow + (1 - decay) x_i  for each i in turn;  slow begins as th0, or as x_1 without a base"
    inputs = "tensors"
    base = "optional"
    parameters = (
        Parameter("decay", REQUIRED, "Share of the slow weights that a checkpoint leaves unchanged.", low=0, high=1),
    )

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors:
        return SumFactors(ema_factors(shared["decay"], len(per_model) + has_base))
