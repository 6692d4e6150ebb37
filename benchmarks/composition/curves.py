"""The grid of cells: every arm on its testbeds, seed by seed, measured in pieces and kept in a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.composition.arms import ARMS, SIZES, Arm
from benchmarks.composition.bed import FULL, SMALL, Bed
from benchmarks.composition.cells import Cells, Key
from genepool import progress
from genepool.threads import torch_threads

SEEDS = 5
_HERE = Path(__file__).parent


def cells_of(*, full: bool) -> Cells:
    """What was measured until now, on the small testbeds or on the full ones."""
    return Cells(_HERE / ("cells-full.jsonl" if full else "cells-tiny.jsonl"))


def grid(arms: Iterable[Arm], bed: str, seed: int, sizes: Iterable[int]) -> Iterator[tuple[Arm, Key]]:
    """The cells of a testbed of one seed, in the order in which they are measured."""
    wanted = set(sizes)
    for arm in arms:
        if bed in arm.beds:
            for size in arm.sizes_on(bed):
                if size in wanted:
                    yield arm, Key(bed, seed, arm.name, size)


def measure(
    cells: Cells,
    *,
    full: bool,
    arms: Iterable[Arm] = ARMS,
    beds: Iterable[str] = (),
    seeds: Iterable[int] = range(SEEDS),
    sizes: Iterable[int] = SIZES,
    minutes: float | None = None,
) -> int:
    """Measures what is not there yet.

    Args:
        cells: where it is kept.
        full: on the full testbeds.
        arms: these.
        beds: these of the testbeds; all when empty.
        seeds: of the testbeds.
        sizes: with so many examples of each task, where an arm is measured with so many.
        minutes: begin no other cell after so many; None for no limit.

    Returns:
        How many cells are still missing.
    """
    began, missing, arms, wanted = time.monotonic(), 0, tuple(arms), set(beds)
    for seed in seeds:
        for kind in FULL if full else SMALL:
            if wanted and kind.name not in wanted:
                continue
            opened: Bed | None = None
            for arm, key in grid(arms, kind.name, seed, sizes):
                if key in cells:
                    continue
                if minutes is not None and time.monotonic() - began > 60 * minutes:
                    missing += 1
                    continue
                opened = opened or Bed(kind, seed)
                with torch_threads(1):
                    cell = arm.measure(opened, key.examples)
                cells.add(key, cell)
                progress.message(f"{' '.join(map(str, key))}: {cell.mean():.3f} after {cell.seconds:.1f} s")
    return missing
