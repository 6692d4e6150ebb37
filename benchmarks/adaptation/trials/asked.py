"""All trials, measured and judged."""

from __future__ import annotations

import time
from collections.abc import Collection

from benchmarks.adaptation.arms import SEEDS
from benchmarks.adaptation.claims import JudgedStreamClaim
from benchmarks.adaptation.trials import contexts, drifting, lent, systems
from benchmarks.adaptation.trials.trial import Trial, TrialCells
from benchmarks.claims.verdict import Figure
from genepool import progress
from genepool.threads import torch_threads

TRIALS: dict[str, Trial] = {one.TRIAL.name: one.TRIAL for one in (drifting, systems, contexts, lent)}


def missing(cells: TrialCells) -> list[tuple[str, int]]:
    """The cells that are not there."""
    return [(name, seed) for name in TRIALS for seed in range(SEEDS) if (name, seed) not in cells]


def measure_trials(cells: TrialCells, trials: Collection[str], *, minutes: float | None = None) -> int:
    """Measures what is not there of some trials.

    Args:
        cells: where it is kept.
        trials: their names.
        minutes: begin no other cell after so many; None for no limit.

    Returns:
        How many cells are still missing.
    """
    began, left = time.monotonic(), 0
    for name, seed in missing(cells):
        if name not in trials:
            continue
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            left += 1
            continue
        with progress.silenced(), torch_threads(1):
            cell = TRIALS[name].measured(seed)
        cells.add(name, seed, cell)
        told = ", ".join(f"{arm} {column} {one.mean():.4g}" for (arm, column), one in cell.values.items())
        progress.message(f"seed {seed}, {name}: {told}")
    return left


def ask_trials(cells: TrialCells) -> list[JudgedStreamClaim]:
    """The claim of every trial that has cells of at least two seeds."""
    found = []
    for trial in TRIALS.values():
        own = {seed: cell for seed, cell in cells.of(trial.name).items() if seed < SEEDS}
        if len(own) > 1:
            figures = {
                name: Figure.of([compare(cell) for cell in own.values()], same_examples=trial.same_examples)
                for name, compare in trial.claim.figures.items()
            }
            found.append(JudgedStreamClaim(trial.claim, tuple(own), figures, trial.claim.places))
    return found
