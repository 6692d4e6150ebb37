"""Measures the cells: every learner by the public call, on testbeds that are trained anew with every seed."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.learners.arms import ARMS, LearnerArm
from benchmarks.learners.cells import SequenceCell, SequenceCells
from benchmarks.learners.claims import SEEDS
from genepool import progress
from genepool.composition.learned_pool import write_learned_pool
from genepool.training import Training, run_training


def measure(
    cells: SequenceCells,
    *,
    arms: Iterable[LearnerArm] = ARMS,
    seeds: Iterable[int] = range(SEEDS),
    minutes: float | None = None,
) -> int:
    """Measures what is not there yet; arms of a lower turn are measured with all seeds before the others.

    Args:
        cells: where it is kept.
        arms: these.
        seeds: of the testbed and of every draw.
        minutes: begin no other cell after so many; None for no limit.

    Returns:
        How many cells are still missing.
    """
    began, missing, arms, seeds = time.monotonic(), 0, tuple(arms), tuple(seeds)
    for turn in sorted({arm.turn for arm in arms}):
        for seed in seeds:
            for arm in (one for one in arms if one.turn == turn):
                for order in arm.world.orders:
                    name = (arm.name, order, seed)
                    if name in cells:
                        continue
                    if minutes is not None and time.monotonic() - began > 60 * minutes:
                        missing += 1
                        continue
                    cell = measured(arm, order, seed)
                    cells.add(name, cell)
                    told = f"{cell.average:.3f} after {cell.seconds:.1f} s"
                    progress.message(f"seed {seed}, {arm.name}, {order}: {told}")
    return missing


def measured(arm: LearnerArm, order: str, seed: int) -> SequenceCell:
    """One cell.

    Args:
        arm: the learner.
        order: of the tasks.
        seed: of the testbed and of every draw.
    """
    recipe = Training(**arm.recipe(order, seed))
    with tempfile.TemporaryDirectory() as folder, progress.silenced():
        out, began = Path(folder) / "run", time.process_time()
        told = run_training(recipe, out, ledger=":memory:", write_pool=write_learned_pool).told
        seconds = time.process_time() - began
        return SequenceCell(arm.world.orders[order], _marks(out), told["memory_bytes"], seconds)


def _marks(out: Path) -> tuple[dict[str, np.ndarray], ...]:
    """After each stage, the marks of every task, out of the run's record."""
    found: dict[int, dict[str, list[float]]] = {}
    with sqlite3.connect(out / "run.sqlite") as record:
        rows = record.execute("SELECT stage, task, score FROM outcomes ORDER BY stage, task, place")
        for stage, task, score in rows:
            found.setdefault(stage, {}).setdefault(task, []).append(score)
    return tuple({task: np.array(scores) for task, scores in found[stage].items()} for stage in sorted(found))
