"""The cells of samplers: every arm with every seed, in pieces; arms without a testbed are measured without one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from benchmarks.composition.cells import Cells
from benchmarks.learning.arm import Arm
from benchmarks.learning.claim import SEEDS, key_of
from benchmarks.samplers.asked import ARMS, PLAIN
from benchmarks.samplers.bed import PlainBed, SamplerBed
from genepool import progress
from genepool.threads import torch_threads


def measure(
    cells: Cells,
    *,
    arms: Iterable[Arm] = ARMS,
    seeds: Iterable[int] = range(SEEDS),
    minutes: float | None = None,
) -> int:
    """Measures what is not there yet.

    Args:
        cells: where it is kept.
        arms: these.
        seeds: of every draw.
        minutes: begin no other cell after so many; None for no limit.

    Returns:
        How many cells are still missing.
    """
    began, missing, arms = time.monotonic(), 0, tuple(arms)
    for seed in seeds:
        beds: dict[bool, Any] = {}
        for arm in arms:
            key = key_of(arm.name, seed)
            if key in cells:
                continue
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                missing += 1
                continue
            plain = arm.name in PLAIN
            if plain not in beds:
                beds[plain] = PlainBed(seed) if plain else SamplerBed(seed)
            with torch_threads(1), progress.silenced():
                cell = arm.measure(beds[plain])
            cells.add(key, cell)
            told = [f"{task} {marks.mean():.3f}" for task, marks in cell.scores.items()]
            told += [f"{name} {number:.4f}" for name, number in cell.said.get("numbers", {}).items()]
            progress.message(f"seed {seed}, {arm.name}: {', '.join(told)} after {cell.seconds:.1f} s")
    return missing
