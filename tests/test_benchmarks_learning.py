"""The figures of learning: rates that are chosen once, cells that are not measured again, verdicts, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.claims.judged import OPEN
from benchmarks.claims.verdict import FAILS, HOLDS, UNASKED
from benchmarks.claims.worlds import GENERIC
from benchmarks.composition.cells import Cell, Cells
from benchmarks.learning import page
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import TARGET, Learned
from benchmarks.learning.claim import SEEDS, ask, key_of
from benchmarks.learning.families import ARMS, CLAIMS
from benchmarks.learning.measured import FIRST, known_cells, measure
from benchmarks.training.world import WARM, Clock, even_end


def marks(*shares: tuple[int, int]) -> np.ndarray:
    """So many examples with this mark, one group after another."""
    return np.concatenate([np.full(count, float(mark)) for count, mark in shares])


def cells_of(path: Path, *seeds: int, **arms: dict[str, np.ndarray]) -> Cells:
    """The same marks with every seed, by arm (underscores are spaces)."""
    cells = Cells(path)
    said = {"rate": 1e-3, "steps": 60, "generated": 7, "labels": 256}
    for arm, scores in arms.items():
        for seed in seeds or range(SEEDS):
            cells.add(key_of(arm.replace("_", " "), seed), Cell(scores, 1.0, said))
    return cells


def verdict(cells: Cells, name: str) -> str:
    (found,) = [one.verdict for one in ask(cells, CLAIMS) if one.claim.name == name]
    return found


@pytest.mark.parametrize(("ours", "expected"), [(80, HOLDS), (40, FAILS)])
def test_a_claim_is_judged_when_every_seed_is_there(tmp_path: Path, ours: int, expected: str) -> None:
    scores = {"dpo": {TARGET: marks((ours, 1), (100 - ours, 0))}, "sft_on_chosen": {TARGET: marks((60, 1), (40, 0))}}
    assert verdict(cells_of(tmp_path / "all.jsonl", **scores), "dpo") == expected
    assert verdict(cells_of(tmp_path / "few.jsonl", 0, 1, **scores), "dpo") == OPEN
    assert ask(cells_of(tmp_path / "one.jsonl", 0, **scores), CLAIMS) == []


@pytest.mark.parametrize(
    ("forgotten", "kept", "skill", "expected"),
    [(30, 10, 90, HOLDS), (30, 30, 90, FAILS), (30, 10, 50, FAILS), (1, 0, 90, UNASKED)],
)
def test_keeping_more_must_not_cost_the_skill_and_needs_something_to_keep(
    tmp_path: Path, forgotten: int, kept: int, skill: int, expected: str
) -> None:
    cells = cells_of(
        tmp_path / "cells.jsonl",
        base={GENERIC: marks((100, 1)), TARGET: marks((100, 0))},
        sft={GENERIC: marks((100 - forgotten, 1), (forgotten, 0)), TARGET: marks((90, 1), (10, 0))},
        lwf={GENERIC: marks((100 - kept, 1), (kept, 0)), TARGET: marks((skill, 1), (100 - skill, 0))},
    )
    assert verdict(cells, "lwf") == expected


def test_a_transfer_is_judged_by_what_its_student_did_not_know_and_by_what_it_knew(tmp_path: Path) -> None:
    # The student knows the first half. Ours learns 30 and loses 2; plain learns 20 and loses 10.
    arms = {
        "half-known": {TARGET: marks((50, 1), (50, 0))},
        "any to any, specialist": {TARGET: marks((48, 1), (2, 0), (30, 1), (20, 0))},
        "plain KL, specialist": {TARGET: marks((40, 1), (10, 0), (20, 1), (30, 0))},
    }
    cells = Cells(tmp_path / "cells.jsonl")
    for arm, scores in arms.items():
        for seed in range(SEEDS):
            name = arm.replace("any to any", "any_to_any")
            cells.add(key_of(name, seed), Cell(scores, 0.0, {}))
    gained, lost = (
        next(one for one in ask(cells, CLAIMS) if one.claim.name == f"transfer-{what}-specialist")
        for what in ("gains", "losses")
    )
    assert (gained.figures["main"].first, gained.figures["main"].second) == (0.3, 0.2)
    assert (lost.figures["main"].first, lost.figures["main"].second) == (0.02, 0.05)
    assert (gained.verdict, lost.verdict) == (HOLDS, HOLDS)


@pytest.mark.parametrize(("ours", "expected"), [(0.8, HOLDS), (0.55, FAILS)])
def test_true_rewards_are_compared_where_both_have_moved_equally_far(
    tmp_path: Path, ours: float, expected: str
) -> None:
    # The plain one has moved by 1.2 in the end; the other one is there in the middle of its way, at half of its gain.
    def cell(apart: float, gold: float) -> Cell:
        numbers = {
            f"{name} {at + 1}": end * at / 11 for name, end in (("kl", apart), ("gold", gold)) for at in range(12)
        }
        return Cell({TARGET: marks((4, 1))}, 0.0, {"numbers": {**numbers, "rank correlation": 0.1}})

    cells = Cells(tmp_path / "cells.jsonl")
    for seed in range(SEEDS):
        cells.add(key_of("up-rlhf", seed), cell(2.4, 2 * ours))
        cells.add(key_of("plain ensemble", seed), cell(1.2, 0.6))
    (found,) = (one for one in ask(cells, CLAIMS) if one.claim.name == "up-rlhf-plain")
    assert (found.figures["main"].first, found.figures["main"].second) == pytest.approx((ours, 0.6))
    assert found.verdict == expected


@pytest.mark.parametrize(("once", "expected"), [(0.5, HOLDS), (0.4, FAILS)])
def test_more_ways_to_an_answer_count_at_an_equal_rate_of_right_ones(
    tmp_path: Path, once: float, expected: str
) -> None:
    cells = Cells(tmp_path / "cells.jsonl")
    for seed in range(SEEDS):
        for arm, least, share in (("evol-rl, sums", 90, once), ("majority, sums", 70, 0.5)):
            scores = {"sums@16": marks((least, 1), (100 - least, 0))}
            cells.add(key_of(arm, seed), Cell(scores, 0.0, {"numbers": {"sums@1": share}}))
    assert verdict(cells, "evol-rl") == expected


def test_the_page_says_what_is_open_and_which_rates_end_their_grid(tmp_path: Path) -> None:
    cells = cells_of(tmp_path / "cells.jsonl", FIRST, sft={TARGET: marks((4, 1)), GENERIC: marks((4, 1))})
    text = page.page(cells)
    assert "ema (0 of 5 seeds)" in text
    assert "The lowest rate" not in text
    said = {"rate": 3e-4, "steps": 60, "generated": 7, "labels": 256, "numbers": {"share": 0.25}}
    cells.add(key_of("ema", FIRST), Cell({TARGET: marks((4, 1)), "sums@16": marks((1, 1), (1, 0))}, 1.0, said))
    text = page.page(cells)
    assert "The lowest rate that was tried was chosen for: ema." in text
    assert "sums@16: 0.500 (1); share: 0.250 (1) |" in text


class _FakeBed:
    """Models that are told apart by their rates, of which the middle one is the best."""

    asked = 0

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, model: str, tasks: tuple[str, ...]) -> float:
        assert tasks == (TARGET,)
        return 1.0 if model == "0.2" else 0.5

    def source(self, model: str) -> str:
        return model

    def ask(self, model: str) -> dict[str, np.ndarray]:
        return {TARGET: np.ones(4)}


def test_the_rate_is_chosen_with_the_first_seed_and_nothing_is_measured_twice(
    tmp_path: Path,
) -> None:
    made: list[tuple[int, float]] = []

    def measured_all(seeds: list[int], minutes: float | None = None) -> int:
        return measure(Cells(path), arms=[arm], seeds=seeds, minutes=minutes, bed=_FakeBed)  # type: ignore[arg-type]

    def make(bed: _FakeBed, rate: float) -> Learned:
        made.append((bed.seed, rate))
        return Learned(str(rate), 60, 5, 256)

    arm = Arm("an arm", "", make, (0.1, 0.2, 0.3))  # type: ignore[arg-type]
    path = tmp_path / "cells.jsonl"
    assert measured_all([1]) == 1
    assert measured_all([FIRST, 1], minutes=0) == 2
    assert made == []
    assert measured_all([FIRST, 1]) == 0
    assert made == [(FIRST, 0.1), (FIRST, 0.2), (FIRST, 0.3), (1, 0.2)]
    assert Cells(path)[key_of("an arm", 1)].said == {"rate": 0.2, "steps": 60, "generated": 5, "labels": 256}
    assert measured_all([FIRST, 1]) == 0
    assert len(made) == 4


def test_arms_can_be_told_apart_and_claims_are_made_of_them() -> None:
    names = {arm.name for arm in ARMS}
    assert len(names) == len(ARMS)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert set(claim.needs) <= names, claim.name


def test_every_claim_is_named_beside_its_system() -> None:
    _, _, table = (page.DOCS / "systems.md").read_text().partition("## Claims of learning")
    assert sorted(re.findall("`([^`]+)`", table.partition("\n## ")[0])) == sorted(claim.name for claim in CLAIMS)


@pytest.mark.slow
def test_the_page_is_that_of_the_cells() -> None:
    assert (page.DOCS / "learning.md").read_text() == page.page(known_cells())


def test_a_clock_leaves_the_first_steps_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walls, cpus = iter([0.0, 9.0, 10.0, 12.0, 14.0]), iter([0.0, 5.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr(
        "benchmarks.training.world.time",
        SimpleNamespace(perf_counter=lambda: next(walls), process_time=lambda: next(cpus)),
    )
    clock = Clock(tmp_path / "told.json", "cpu")
    step = clock.ticking(lambda number: number + 1)
    assert [step(number) for number in range(WARM + 3)] == [1, 2, 3, 4, 5]
    clock.write()
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == {"wall": 2.0, "cpu": 1.0, "steps": 2, "device_memory": 0.0}


def test_half_of_the_words_are_rewarded() -> None:
    assert [even_end(text) for text in ("w1 w20 ", "w1 w21", "")] == [1.0, 0.0, 0.0]
