"""Synthetic series: one that stays as it was in training, and one that drifts once the training is over.

Both begin alike, so one forecaster is fitted for both. Draws belong to (seed, name). Uses numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from genepool.seeding import numpy_generator

#: Steps of the season.
SEASON = 12
# Of the season, of its second harmonic, and of the noise whose next value keeps so much of the last one.
_SEASONAL, _HARMONIC, _NOISE, _KEPT = 1.0, 0.4, 0.3, 0.7
# What has become of the drifting series at its end: the level rises by so much, the season is so many times as strong,
# and its second harmonic has turned by so much.
_LEVEL, _STRONGER, _TURN = 3.0, 2.0, math.pi


@dataclass(frozen=True)
class MadeSeries:
    """A series and where its training ends.

    Attributes:
        values: shape (steps, variables).
        domains: where each step is from.
        keys: of the steps.
        trained: steps of the training.
    """

    values: Any
    domains: tuple[str, ...]
    keys: tuple[str, ...]
    trained: int


def made_series(drifts: bool, trained: int, after: int, seed: int) -> MadeSeries:
    """One series of one variable.

    Args:
        drifts: whether it changes once the training is over: its level, the strength of its season and the shape of it,
            all evenly with time.
        trained: steps of the training, the same values whether it drifts or not.
        after: steps that follow.
        seed: of the draws.
    """
    steps = np.arange(trained + after)
    noise = np.zeros(trained + after)
    drawn = numpy_generator(seed, "series noise").normal(size=trained + after)
    for at in range(1, trained + after):
        noise[at] = _KEPT * noise[at - 1] + _NOISE * drawn[at]
    # From 0 where the training ends to 1 at the end.
    share = np.clip((steps - trained) / max(1, after), 0, 1) * drifts
    angle = 2 * math.pi * steps / SEASON
    season = _SEASONAL * np.sin(angle) + _HARMONIC * np.sin(2 * angle + _TURN * share)
    values = _LEVEL * share + (1 + (_STRONGER - 1) * share) * season + noise
    words = [_domain(one, drifts) for one in share]
    keys = tuple(f"t{at:05d}" for at in steps)
    return MadeSeries(values[:, None], tuple(words), keys, trained)


def _domain(share: float, drifts: bool) -> str:
    """Which third of its drift a step is in."""
    if not drifts:
        return "steady"
    return ("early", "middle", "late")[min(2, int(3 * share))]
