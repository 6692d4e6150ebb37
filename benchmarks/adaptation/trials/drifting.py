"""PETSA on a series that drifts and on one that is steady, and the same labels spent on three controls."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation.cells import Marks
from benchmarks.adaptation.trials.trial import Trial, TrialCell, TrialClaim, between
from benchmarks.claims.verdict import Figure, Rule
from benchmarks.claims.worlds import CACHE
from genepool.adaptation import Adaptation
from genepool.testbed import build
from genepool.testbed.series.builder import HORIZON

STEADY, DRIFT, RATE = "steady", "drift", "rate"
#: Rates of Adam that each arm is given to choose from, and the seed of the series that it chooses on.
RATES, CHOSEN_ON = (1e-4, 1e-3, 1e-2), 100
#: Arm -> its adapter and options. What is called whole learns of nothing that came in part, as the last two.
ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "PETSA": ("petsa", {}),
    "bias alone": ("petsa", {"rank": 0}),
    "PETSA, whole": ("petsa", {"partial": False}),
    "full tuning, whole": ("online", {}),
    "refit every period, whole": ("refit", {}),
}


def measured(seed: int) -> TrialCell:
    """Gains of every arm on both series of a seed, at the rate that the arm chose on the series of another."""
    folder, values = _bed(seed), {}
    for arm in ARMS:
        rate = chosen(arm)
        values[arm, RATE] = np.array([rate])
        for series in (STEADY, DRIFT):
            values[arm, series] = gains(folder, series, arm, rate)
    return TrialCell(values)


@cache
def chosen(arm: str) -> float:
    """The rate of the largest mean gain over both series of the seed that is for choosing."""
    folder = _bed(CHOSEN_ON)

    def gain(rate: float) -> float:
        return float(np.mean([gains(folder, series, arm, rate).mean() for series in (STEADY, DRIFT)]))

    return max(RATES, key=gain)


def gains(folder: Path, series: str, arm: str, rate: float) -> Marks:
    """The share of the frozen model's squared error that an arm takes away, in blocks of windows.

    A block is as many windows as a window forecasts steps: neighbours share most of what is scored. The frozen model's
    error is that of the whole series, so that the mean over the blocks is the share over all of them.
    """
    adapter, options = ARMS[arm]
    run = Adaptation(
        folder / "base", folder / "streams" / series, adapter, options={**options, "rate": rate}, threads=1
    )
    ours: list[float] = []
    theirs: list[float] = []
    for step in run:
        ours += step.errors(step.predicted)
        theirs += step.errors(step.frozen)
    return in_blocks(np.array(ours), np.array(theirs))


def in_blocks(ours: Marks, theirs: Marks) -> Marks:
    """Gains by block; what is left over at the end is dropped."""
    whole = len(ours) // HORIZON * HORIZON
    blocks = [errors[:whole].reshape(-1, HORIZON).mean(1) for errors in (ours, theirs)]
    found: Marks = (blocks[1] - blocks[0]) / blocks[1].mean()
    return found


def _bed(seed: int) -> Path:
    folder = CACHE / "beds" / f"series-full-{seed}"
    build(folder, bed="series", seed=seed, overwrite=True)
    return folder


def _beside(first: str, second: str) -> Any:
    return lambda cell: between(cell.values[first, DRIFT], cell.values[second, DRIFT])


_ASKED = ("main", "bias", "full tuning", "refit")


def _holds(figures: Mapping[str, Figure]) -> bool:
    return all(figures[name].lo > 0 for name in _ASKED)


CLAIM = TrialClaim(
    "petsa", "PETSA gains more where a series drifts than where it is steady, and more than the same labels spent on a "
    "bias, on full tuning and on a refit every period", "Medeiros et al. 2025",
    {
        "main": lambda cell: between(cell.values["PETSA", DRIFT], cell.values["PETSA", STEADY]),
        "bias": _beside("PETSA", "bias alone"),
        "full tuning": _beside("PETSA, whole", "full tuning, whole"),
        "refit": _beside("PETSA, whole", "refit every period, whole"),
        "whole": lambda cell: between(cell.values["PETSA, whole", DRIFT], cell.values["PETSA, whole", STEADY]),
    },
    Rule(
        "the interval of its gain on a drifting series minus its gain on a steady one is above 0, with a converged "
        "base and normalisation; and the interval of its gain minus that of the same labels spent on a bias, on full "
        "tuning and on a refit every period is above 0",
        _holds,
    ),
    "bias beside PETSA, the others beside PETSA that learns of whole batches; whole: its gain where it drifts minus "
    "where it is steady",
    places=5,
)  # fmt: skip

TRIAL = Trial(
    "drifting series",
    "A forecaster that reads 48 steps and forecasts 24, fitted in closed form to 1200 steps and normalised by the last "
    "value, goes along the 1200 steps that follow, in batches of a dominant period and one. A *gain* is the share of "
    "the frozen model's squared error that is taken away. The seeds make the noise of the series, and so the base. "
    f"Each arm has the one of the rates {', '.join(f'{one:g}' for one in RATES)} with which it gained most on both "
    "series of another seed; the last three chose a rate at an end of these and may do better beyond it, and refitting "
    "is worse than doing nothing. *Whole* learns of batches once all of their truth has come, as full tuning and "
    "refitting do, so that the labels are the same; PETSA itself also learns of truth that came in part.",
    tuple(ARMS), (STEADY, DRIFT, RATE), measured, CLAIM, places=4,
)  # fmt: skip
