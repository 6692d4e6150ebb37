"""The figures of composition: cells that outlive a kill, routers, factors added up apart, verdicts, and the page."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims.verdict import FAILS, HOLDS
from benchmarks.composition import curves, tables
from benchmarks.composition.apart import FactorSums
from benchmarks.composition.arms import ARMS, CONTROL, CURVES, ONE, SIZES
from benchmarks.composition.bed import FULL, PAIR_TASKS, PAIRS, SMALL, TINY, Bed
from benchmarks.composition.cells import Cell, Cells, Key
from benchmarks.composition.claims import CLAIMS, OPEN, ask
from benchmarks.composition.curves import cells_of, grid, measure
from benchmarks.composition.picture import draw, drawn
from benchmarks.composition.routed import picked

BED = TINY[0].name


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.booleans(), min_size=1, max_size=70), min_size=1))
def test_cells_come_back_as_they_were_kept(
    tmp_path_factory: pytest.TempPathFactory, marks: dict[str, list[bool]]
) -> None:
    path = tmp_path_factory.mktemp("cells") / "cells.jsonl"
    scores = {task: np.array(values, float) for task, values in marks.items()}
    key = Key(BED, 3, "an arm, with words", 16)
    Cells(path).add(key, Cell(scores, 1.234, {"chosen": {"scale": 0.5}}))
    (read,) = Cells(path)
    cell = Cells(path)[read]
    assert read == key
    assert (cell.seconds, cell.said) == (1.23, {"chosen": {"scale": 0.5}})
    assert {task: list(values) for task, values in cell.scores.items()} == {t: list(v) for t, v in scores.items()}


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    cells = Cells(path)
    for seed in range(2):
        cells.add(Key(BED, seed, "base", 0), Cell({"a": np.ones(9)}, 0.0))
    path.write_text(path.read_text()[:-5])
    again = Cells(path)
    assert again.seeds(BED, "base", 0) == [0]
    again.add(Key(BED, 1, "base", 0), Cell({"a": np.ones(9)}, 0.0))
    assert Cells(path).seeds(BED, "base", 0) == [0, 1]


def test_scores_between_right_and_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only right or wrong"):
        Cells(tmp_path / "cells.jsonl").add(Key(BED, 0, "base", 0), Cell({"a": np.array([0.5])}, 0.0))


def test_a_routed_answer_is_that_of_the_chosen_specialist() -> None:
    answers = [{"a": np.array([1.0, 0.0, 0.0])}, {"a": np.array([0.0, 1.0, 0.0])}]
    assert list(picked(answers, {"a": np.array([0, 1, 1])})["a"]) == [1, 1, 0]
    assert list(picked(answers, {"a": np.array([1, 0, 0])})["a"]) == [0, 0, 0]


def test_factors_that_are_added_up_apart_forget_the_sign_of_one_adapter_and_mix_two() -> None:
    torch = pytest.importorskip("torch")
    from genepool.weights.encodings.low_rank import Product

    generator = torch.Generator().manual_seed(0)
    products = [Product(*(torch.randn(*shape, generator=generator) for shape in ((4, 2), (2, 3))), 2.0) for _ in "ab"]
    changes = [SimpleNamespace(factors=lambda name, one=one: one) for one in products]
    sums = FactorSums(None, SimpleNamespace(memory_changes=changes))  # type: ignore[arg-type]
    whole = [2.0 * one.left @ one.right for one in products]
    alone = sums._sum("weight", torch.tensor([-1.0, 0.0]))
    assert torch.allclose(alone, whole[0])
    both = sums._sum("weight", torch.tensor([1.0, 1.0]))
    crossed = 2.0 * (products[0].left @ products[1].right + products[1].left @ products[0].right)
    assert torch.allclose(both, whole[0] + whole[1] + crossed, atol=1e-5)


def _cells(tmp_path: Path, first: float, second: float, seeds: int) -> Cells:
    """Cells of "match-beats-entropy" in which two arms have these scores on two tasks, one example apart by seed."""
    cells = Cells(tmp_path / "cells.jsonl")
    for seed in range(seeds):
        for arm, score in (("adamerging, match", first), ("adamerging, entropy", second)):
            right = (np.arange(100) < 100 * score + seed % 2).astype(float)
            marks = {"mirror": right, "shuffle": right, "generic": np.zeros(100)}
            cells.add(Key(BED, seed, arm, ONE), Cell(marks, 1.0))
    return cells


def test_a_claim_holds_when_its_interval_is_on_its_side_and_the_general_task_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "worse").mkdir()
    (better,) = ask(_cells(tmp_path, 0.8, 0.6, 5))
    (worse,) = ask(_cells(tmp_path / "worse", 0.6, 0.8, 5))
    assert (better.claim.name, better.verdict, worse.verdict) == ("match-beats-entropy", HOLDS, FAILS)
    assert better.figures["main"].difference == pytest.approx(0.2)
    assert better.seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("kept", "verdict"), [(1.0, HOLDS), (0.5, FAILS)])
def test_unlearning_is_judged_by_what_is_lost_and_by_the_control(tmp_path: Path, kept: float, verdict: str) -> None:
    cells = Cells(tmp_path / "cells.jsonl")
    whole, none, control = np.ones(40), np.zeros(40), (np.arange(40) < 40 * kept).astype(float)
    for seed in range(5):
        cells.add(Key(BED, seed, "base", 0), Cell({"mirror": whole, "invert": whole, "generic": whole}, 0.0))
        marks = {"mirror": none, f"{CONTROL}mirror": control, "invert": none, f"{CONTROL}invert": control}
        cells.add(Key(BED, seed, "unlearned", ONE), Cell(marks, 0.0))
    (asked,) = ask(cells)
    assert asked.figures["main"].difference == -1
    assert asked.figures["guard"].difference == kept - 1
    assert asked.verdict == verdict


def test_few_seeds_have_a_figure_and_no_verdict_and_one_seed_has_none(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (few,) = ask(_cells(tmp_path, 0.8, 0.6, 4))
    assert few.verdict == OPEN
    assert few.figures["main"].difference == pytest.approx(0.2)
    assert ask(_cells(tmp_path / "one", 0.8, 0.6, 1)) == []


def test_two_skills_in_turn_are_told_apart_from_the_skills_and_are_what_is_compared(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.jsonl")
    skills = dict.fromkeys((skill for both in PAIR_TASKS.values() for skill in both), np.ones(40))
    for seed in range(5):
        for arm, score in (("adamerging, match", 0.5), ("specialists, LDA-routed", 0.25)):
            half = (np.arange(40) < 40 * score).astype(float)
            marks = {**skills, **dict.fromkeys(PAIR_TASKS, half), "generic": np.zeros(40)}
            cells.add(Key(PAIRS, seed, arm, ONE), Cell(marks, 2.0))
    (asked,) = ask(cells)
    assert (asked.claim.name, asked.verdict) == ("composes", HOLDS)
    assert asked.figures["main"].difference == 0.25
    text = tables.page(cells, Cells(tmp_path / "none.jsonl"))
    assert "| adamerging, match | 64 | 0.500 ± 0.000 | 1.000 ± 0.000 | 0.000 | 2.0 |" in text
    assert "| reverse_upper |  |  |  | 0.500 |" in text


def test_a_page_of_few_cells_says_how_few(tmp_path: Path) -> None:
    cells = _cells(tmp_path, 0.8, 0.6, 2)
    text = tables.page(cells, Cells(tmp_path / "none.jsonl"))
    assert "| adamerging, match |  |  | 0.805 ± 0.064 (2) |  | 0.000 | 1.0 |" in text
    assert "| 2 | +0.200" in text
    ElementTree.fromstring(draw(cells, [BED]))


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_composers_get_what_routers_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A testbed of specialists that learned next to nothing, which is all that this asks for."""
    pytest.importorskip("sklearn")
    from benchmarks.claims import worlds
    from benchmarks.composition import arms, routed
    from genepool.testbed.digits import builder
    from genepool.testbed.digits.builder import DigitsSchedule
    from genepool.testbed.schedule import Phase

    schedule = DigitsSchedule(8, 2, 2, 12, base=Phase(30, 32, 5e-3), full=Phase(4, 32, 5e-3))
    monkeypatch.setattr(builder, "schedule_for", lambda *, tiny, tasks: schedule)
    monkeypatch.setattr(worlds, "CACHE", tmp_path)
    monkeypatch.setattr(arms, "SHORT", 2)
    asked = [arm for arm in ARMS if arm.name in ("base", "specialists, LDA-routed", "learned_lines", "emr, task known")]
    path = tmp_path / "cells.jsonl"
    how: dict[str, Any] = {"full": False, "beds": [BED], "seeds": [0], "sizes": (0, 16)}
    assert measure(Cells(path), **how, arms=asked, minutes=0) == 5
    assert measure(Cells(path), **how, arms=asked[:2]) == 0
    assert measure(Cells(path), **how, arms=asked) == 0
    cells = Cells(path)
    assert {(key.arm, key.examples) for key in cells} == {
        ("base", 0), ("specialists, LDA-routed", 16), ("learned_lines", 0), ("learned_lines", 16),
        ("emr, task known", 0),
    }  # fmt: skip
    assert set(cells[Key(BED, 0, "learned_lines", 16)].scores) == {"rotate", "mirror", "transpose", "invert", "generic"}
    assert set(cells[Key(BED, 0, "emr, task known", 0)].scores) == {"rotate", "mirror", "transpose", "invert"}
    bed = Bed(TINY[0], 0)
    with arms.nothing_held_out():
        whole = bed.fitted("learned_lines", {"steps": 2}, 16).record["examples"]
    parted = bed.fitted("learned_lines", {"steps": 2}, 16).record["examples"]
    assert whole["mirror"] == {"learn": 16, "held": 0}
    assert parted["mirror"] == {"learn": 12, "held": 4}
    told = routed.choices(bed, 16, "lda_routing", {"abstain": 0})
    assert set(told["mirror"]) <= set(range(4))
    monkeypatch.setattr(curves, "Bed", lambda *_: pytest.fail("it is known"))
    assert measure(Cells(path), **how, arms=asked) == 0


def test_curves_are_drawn_of_the_seeds_that_they_have_in_common(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.jsonl")
    for arm in CURVES:
        for seed in range(2):
            for size in (0, ONE):
                cells.add(Key(BED, seed, arm.name, size), Cell({"a": np.ones(4)}, 0.0))
    assert drawn(cells, BED) == ((0, ONE), [0, 1])
    for arm in CURVES:
        assert drawn(cells, BED) == ((0, ONE), [0, 1])
        for size in SIZES:
            cells.add(Key(BED, 1, arm.name, size), Cell({"a": np.ones(4)}, 0.0))
    assert drawn(cells, BED) == (SIZES, [1])


def test_every_arm_can_be_told_apart_and_is_measured_somewhere() -> None:
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    for arm in ARMS:
        assert set(arm.beds) <= {kind.name for kind in (*SMALL, *FULL)}
        assert arm.beds
        assert set(arm.sizes) <= set(SIZES)
        assert all(arm.sizes_on(bed) for bed in arm.beds)


def test_every_claim_is_made_of_cells_that_are_measured() -> None:
    there = {(key.bed, key.arm, key.examples) for kind in (*SMALL, *FULL) for _, key in grid(ARMS, kind.name, 0, SIZES)}
    for claim in CLAIMS:
        for bed in claim.beds:
            assert {(bed, arm, size) for arm, size in claim.needs} <= there, claim.name


@pytest.mark.slow
def test_the_page_is_that_of_the_cells() -> None:
    assert (tables.DOCS / "composition.md").read_text() == tables.page(cells_of(full=False), cells_of(full=True))
