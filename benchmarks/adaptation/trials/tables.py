"""A table for each trial: arms in rows, what was measured in columns, means over the seeds."""

from __future__ import annotations

import math
import textwrap

import numpy as np

from benchmarks.adaptation.arms import SEEDS
from benchmarks.adaptation.trials.asked import TRIALS
from benchmarks.adaptation.trials.trial import Trial, TrialCell, TrialCells
from benchmarks.claims.verdict import student


def tables(cells: TrialCells) -> list[str]:
    """The lines of all sections; none of a trial that was not measured."""
    lines: list[str] = []
    for trial in TRIALS.values():
        found = [cell for seed, cell in cells.of(trial.name).items() if seed < SEEDS]
        if found:
            lines += [
                f"## {trial.name.capitalize()}",
                "",
                textwrap.fill(trial.words, 120),
                "",
                *_table(trial, found),
                "",
            ]
    return lines


def _table(trial: Trial, cells: list[TrialCell]) -> list[str]:
    rows = [[arm, *(_entry(trial, cells, arm, column) for column in trial.columns)] for arm in trial.arms]
    head = ["", *trial.columns]
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["--:"] * len(trial.columns)], *rows)]


def _entry(trial: Trial, cells: list[TrialCell], arm: str, column: str) -> str:
    """The mean over the seeds, with half of its interval where the seeds differ."""
    if any((arm, column) not in cell.values for cell in cells):
        return ""
    values = [cell.mean(arm, column) for cell in cells]
    if max(values) == min(values):
        return f"{values[0]:g}"
    half = student(len(values)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{np.mean(values):.{trial.places}f} ± {half:.{trial.places}f}"
