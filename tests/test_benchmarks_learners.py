"""The figures of learners: cells as they are kept, measures of a matrix, verdicts in both orders, and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.claims.judged import OPEN
from benchmarks.claims.verdict import FAILS, HOLDS
from benchmarks.claims.worlds import GENERIC
from benchmarks.learners import page
from benchmarks.learners.arms import ARMS
from benchmarks.learners.cells import SequenceCell, SequenceCells
from benchmarks.learners.claims import CLAIMS, SEEDS, ask, orders_of
from benchmarks.learners.worlds import ORDERS, WORLDS
from genepool.training.learners import find_learner


def cell(order: str, learned: int, in_the_end: int, general: int = 90) -> SequenceCell:
    """A hundred examples of each task, so many right when it was learned, so many of the earlier ones in the end."""

    def marks(right: int) -> np.ndarray:
        return np.repeat([1.0, 0.0], [right, 100 - right])

    tasks = ORDERS[order]
    stages = []
    for stage in range(len(tasks) + 1):
        scores = {task: marks(learned if at + 1 == stage else 0) for at, task in enumerate(tasks)}
        if stage == len(tasks):
            scores |= {task: marks(in_the_end) for task in tasks[:-1]}
        stages.append({**scores, GENERIC: marks(general if stage else 95)})
    return SequenceCell(tasks, tuple(stages), 1000, 2.0)


def filled(path: Path, arms: dict[str, tuple[int, int]], seeds: int = SEEDS) -> SequenceCells:
    """The same marks with every seed and order, by arm."""
    cells = SequenceCells(path)
    for arm, (learned, in_the_end) in arms.items():
        for order in ORDERS:
            for seed in range(seeds):
                cells.add((arm, order, seed), cell(order, learned, in_the_end))
    return cells


def verdict(cells: SequenceCells, name: str) -> str:
    (found,) = [one.verdict for one in ask(cells) if one.claim.name == name]
    return found


def test_every_arm_is_a_learner_with_options_that_it_has() -> None:
    for arm in ARMS:
        assert find_learner(arm.learner, arm.options).name == arm.learner
    assert {need for claim in CLAIMS for need in claim.needs} <= {arm.name for arm in ARMS}
    assert all(len(orders_of(claim)) == 2 for claim in CLAIMS)
    assert len({order for world in WORLDS for order in world.orders}) == 2 * len(WORLDS)


def test_a_cell_is_read_as_it_was_written_and_a_line_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    cells = filled(tmp_path / "cells.jsonl", {"ewc": (80, 50)}, 1)
    with open(cells.path, "a") as file:
        file.write('{"arm": "ewc", "ord')
    again = SequenceCells(cells.path)
    known = again["ewc", "forwards", 0]
    assert known.tasks == ORDERS["forwards"]
    assert known.average == pytest.approx((3 * 0.5 + 0.8) / 4)
    assert known.backward == pytest.approx(-0.3)
    assert known.learned == pytest.approx(0.8)
    assert again.seeds(["ewc"], ORDERS) == [0]
    assert again.seeds(["ewc", "gpm"], ORDERS) == []


@pytest.mark.parametrize(("ours", "expected"), [((80, 60), HOLDS), ((80, 10), FAILS)])
def test_a_claim_is_about_both_orders_and_all_seeds(tmp_path: Path, ours: tuple[int, int], expected: str) -> None:
    arms = {"ewc": ours, "sequential": (90, 30)}
    cells = filled(tmp_path / "all.jsonl", arms)
    assert verdict(cells, "ewc") == expected
    assert verdict(cells, "forgetting") == HOLDS
    assert verdict(filled(tmp_path / "few.jsonl", arms, 3), "ewc") == OPEN
    if expected == HOLDS:
        # Better in one order alone is not better.
        mixed = filled(tmp_path / "mixed.jsonl", arms)
        for seed in range(SEEDS):
            mixed.add(("ewc", "backwards", seed), cell("backwards", 90, 20))
        assert verdict(mixed, "ewc") == FAILS


def test_the_page_says_what_is_missing(tmp_path: Path) -> None:
    text = page.page(filled(tmp_path / "cells.jsonl", {"sequential": (90, 30), "ewc": (80, 60)}, 2))
    assert "| ewc | online EWC | 0.650 ± 0.000 (2) | 0.800 ± 0.000 (2) | -0.200 ± 0.000 (2) |" in text
    assert "Not measured yet: replay," in text
    assert "| 2 | " in text


@pytest.mark.slow
def test_the_page_is_that_of_the_cells() -> None:
    assert (page.DOCS / "learners.md").read_text() == page.page(SequenceCells())
