"""The figures of stream adapters: cells as they are kept, what is measured where, verdicts, and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.adaptation import page
from benchmarks.adaptation.arms import ARMS, BEDS, FIXED_RATES, KEPT, SEEDS, SEVEN
from benchmarks.adaptation.cells import StreamCell, StreamCells
from benchmarks.adaptation.claims import CLAIMS, OPEN, ask, best_fixed
from benchmarks.adaptation.measured import plan, suits, swapped
from benchmarks.adaptation.trials.asked import TRIALS
from benchmarks.adaptation.trials.trial import TrialCells
from benchmarks.claims.verdict import FAILS, HOLDS, UNASKED
from genepool.adaptation import Stream, all_adapters, find_adapter


def marks(right: int, of: int = 200) -> np.ndarray:
    return np.repeat([1.0, 0.0], [right, of - right])


def cell(
    frozen: int, rounds: dict[int, int], clean: tuple[int, int] = (90, 80), cost: float | None = None,
    unknown: tuple[float, float] | None = None, seconds: float = 0.01, beside: float = 0.002,
) -> StreamCell:  # fmt: skip
    """Two domains of a hundred examples each; so many right of all, by round."""
    found = {number: marks(right) for number, right in rounds.items()}
    both = (marks(clean[0], 100), marks(clean[1], 100))
    return StreamCell(
        {"low": 100, "high": 100},
        marks(frozen),
        found,
        both,
        unknown,
        cost,
        0.5,
        1,
        0,
        seconds,
        10**6,
        {"lessons": 3},
        beside,
    )


def filled(path: Path, arms: dict[tuple[str, str], StreamCell], seeds: int = SEEDS) -> StreamCells:
    cells = StreamCells(path)
    for (arm, bed), one in arms.items():
        for seed in range(seeds):
            cells.add((arm, bed, seed), one)
    return cells


def verdict(cells: StreamCells, name: str) -> str:
    (found,) = [one.verdict for one in ask(cells) if one.claim.name == name]
    return found


def test_every_arm_is_an_adapter_with_options_that_it_has() -> None:
    for arm in ARMS:
        assert find_adapter(arm.adapter, arm.options).name == arm.adapter
        assert not arm.only or arm.only in BEDS
    names = {arm.name for arm in ARMS}
    assert {arm for claim in CLAIMS for arm, _ in claim.needs} <= names
    assert {bed for claim in CLAIMS for _, bed in claim.needs} <= set(BEDS)
    asked = [one.name for one in (*CLAIMS, *(trial.claim for trial in TRIALS.values()))]
    assert len(set(asked)) == len(asked)


def test_what_is_measured_where() -> None:
    cells = plan()
    assert len(cells) == len(set(cells))
    known = {arm.name: arm for arm in ARMS}
    for arm, bed, _ in cells:
        assert suits(known[arm], BEDS[bed]), (arm, bed)
    for arm in ("frozen", "diversity", *SEVEN):
        assert {seed for name, bed, seed in cells if (name, bed) == (arm, "mixed")} == set(range(SEEDS))
    # Every adapter of classes is measured somewhere, but the one whose source is of another kind.
    of_classes = {name for name, kind in all_adapters().items() if "classes" in kind.asks}
    assert {known[arm].adapter for arm, _, _ in cells} == of_classes - {"heterogeneous"}
    assert ("cotta", "text", 0) not in cells
    assert ("tent", "text", 0) in cells
    assert ("lame", "text", 0) not in cells
    assert ("modulation_pool", "conv", 0) not in cells
    assert ("tt_si, random", "half_known", 4) in cells


def test_a_cell_is_read_as_it_was_written_and_a_line_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    one = cell(101, {1: 120, 15: 77}, cost=0.01, unknown=(0.5, 0.75))
    cells = filled(tmp_path / "cells.jsonl", {("eata", "mixed"): one}, 1)
    with open(cells.path, "a") as file:
        file.write('{"arm": "eata", "be')
    again = StreamCells(cells.path)["eata", "mixed", 0]
    assert again.to_dict() == one.to_dict()
    assert (again.last, again.score(1), again.score(15)) == (15, 0.6, 0.385)
    assert [again.part(again.rounds[1], name).sum() for name in ("low", "high", "")] == [100, 20, 120]
    assert again.frozen.tolist() == one.frozen.tolist()
    assert StreamCells(cells.path).seeds([("eata", "mixed"), ("tent", "mixed")]) == []


def test_tent_gains_and_collapses_by_the_rules(tmp_path: Path) -> None:
    cells = filled(tmp_path / "a.jsonl", {("tent", "mixed"): cell(100, {1: 140, 3: 100, 15: 40})})
    assert (verdict(cells, "tent-gains"), verdict(cells, "tent-collapses")) == (HOLDS, HOLDS)
    cells = filled(tmp_path / "b.jsonl", {("tent", "mixed"): cell(100, {1: 60, 3: 100, 15: 140})})
    assert (verdict(cells, "tent-gains"), verdict(cells, "tent-collapses")) == (FAILS, FAILS)
    cells = filled(tmp_path / "c.jsonl", {("tent", "mixed"): cell(100, {1: 140, 3: 100, 15: 40})}, 3)
    assert verdict(cells, "tent-gains") == OPEN


@pytest.mark.parametrize(("mixed", "expected"), [(70, HOLDS), (130, FAILS), (100, FAILS)])
def test_lames_sign_turns_with_the_order(tmp_path: Path, mixed: int, expected: str) -> None:
    arms = {
        ("lame", "correlated"): cell(100, dict.fromkeys(KEPT, 140)),
        ("lame", "mixed"): cell(100, dict.fromkeys(KEPT, mixed)),
    }
    assert verdict(filled(tmp_path / "cells.jsonl", arms), "lame") == expected


@pytest.mark.parametrize(("cost", "expected"), [(0.01, HOLDS), (0.05, UNASKED)])
def test_cotta_is_asked_where_the_model_stands_the_augmentations(tmp_path: Path, cost: float, expected: str) -> None:
    arms = {
        ("cotta", "mixed"): cell(100, dict.fromkeys(KEPT, 140), cost=cost),
        ("tent", "mixed"): cell(100, dict.fromkeys(KEPT, 40)),
    }
    assert verdict(filled(tmp_path / "cells.jsonl", arms), "cotta") == expected


def test_a_claim_of_both_directions_needs_both(tmp_path: Path) -> None:
    """Better in all, but only where low digits are common."""
    ours = cell(100, dict.fromkeys(KEPT, 120))
    arms = {("label_shift", "label_shift"): ours, ("tent", "label_shift"): cell(100, dict.fromkeys(KEPT, 90))}
    # All of the first domain are right already: it can only be equal.
    assert verdict(filled(tmp_path / "cells.jsonl", arms), "label-shift") == FAILS


def test_the_best_fixed_rate_is_that_of_the_whole_stream(tmp_path: Path) -> None:
    arms = {
        (f"fixed {rate:g}", "swaps"): cell(100, dict.fromkeys(range(1, 16), 100 + 10 * (at == 2)))
        for at, rate in enumerate(FIXED_RATES)
    }
    cells = filled(tmp_path / "cells.jsonl", arms)
    assert best_fixed(cells) == f"fixed {FIXED_RATES[2]:g}"


def test_labels_are_exchanged_in_pairs() -> None:
    stream = swapped(Stream.of(["1", "2", "3"], ["0", "1", "8"], ["clean"] * 3))
    assert [one.answer for one in stream.examples] == ["0", "1", "8", "1", "0", "9"]
    assert len({one.key for one in stream.examples}) == 6
    assert stream.domains == ("clean", "swapped")


def test_the_page_says_what_is_missing(tmp_path: Path) -> None:
    arms = {
        ("frozen", "mixed"): cell(100, dict.fromkeys(KEPT, 100), seconds=0.002, beside=0.002),
        ("tent", "mixed"): cell(100, {1: 120, 3: 100, 15: 40}, seconds=0.008),
    }
    text = page.page(filled(tmp_path / "cells.jsonl", arms, 2), TrialCells(tmp_path / "trials.jsonl"))
    assert "| tent | 0.600 ± 0.000 | 0.500 ± 0.000 | 0.200 ± 0.000 | -0.300 [" in text
    assert "| tent | 4.0 |  |  | 0.00 |  |  |" in text
    assert "Not measured yet: eata-lasts," in text
    assert "noise-source.\n" in text
    assert "cells, " in text


@pytest.mark.slow
def test_the_page_is_that_of_the_cells() -> None:
    assert (page.DOCS / "streams.md").read_text() == page.page(StreamCells(), TrialCells())
