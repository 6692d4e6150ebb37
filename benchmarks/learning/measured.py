"""The cells: every arm with every seed, measured in pieces and kept in a file, so that a stopped run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.composition.cells import Cells
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import BareBed, LearningBed
from benchmarks.learning.claim import SEEDS, key_of
from benchmarks.learning.families import ARMS
from genepool import progress
from genepool.threads import torch_threads

#: The seed with which learning rates are chosen; the others have the same.
FIRST = 0
_FILE = Path(__file__).parent / "cells.jsonl"


def known_cells() -> Cells:
    """What was measured until now."""
    return Cells(_FILE)


def measure(
    cells: Cells,
    *,
    arms: Iterable[Arm] = ARMS,
    seeds: Iterable[int] = range(SEEDS),
    minutes: float | None = None,
    bed: Callable[[int], LearningBed] = LearningBed,
) -> int:
    """Measures what is not there yet.

    Args:
        cells: where it is kept.
        arms: these.
        seeds: of the testbed and of every draw.
        minutes: begin no other cell after so many; None for no limit.
        bed: opens the testbed of a seed.

    Returns:
        How many cells are still missing.
    """
    began, missing, arms = time.monotonic(), 0, tuple(arms)
    for seed in seeds:
        opened: dict[bool, LearningBed] = {}
        for arm in arms:
            key = key_of(arm.name, seed)
            if key in cells:
                continue
            if seed != FIRST and key_of(arm.name, FIRST) not in cells:
                missing += 1
                continue
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                missing += 1
                continue
            if arm.bare not in opened:
                opened[arm.bare] = BareBed(seed) if arm.bare else bed(seed)
            first = key_of(arm.name, FIRST)
            rates = (cells[first].said["rate"],) if seed != FIRST and first in cells else ()
            with torch_threads(1), progress.silenced():
                cell = arm.measure(opened[arm.bare], rates)
            cells.add(key, cell)
            told = ", ".join(f"{task} {marks.mean():.3f}" for task, marks in cell.scores.items())
            progress.message(f"seed {seed}, {arm.name}: {told} after {cell.seconds:.1f} s")
    return missing
