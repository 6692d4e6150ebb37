"""Comparing two models: flips and compatibility by hand, what must hold for any scores, gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.measure import FlipMatrix, Gate, check_gates, compare, compare_many, compatibility, load_gates, wilson
from genepool.tasks import Pairs

graded = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.75, 1.0])] * 2), min_size=1, max_size=30)
right_or_wrong = st.lists(st.tuples(*[st.sampled_from([0.0, 1.0])] * 2), min_size=1, max_size=30)


def pairs(task: str, drawn: list[tuple[float, float]], **more: object) -> Pairs:
    old, new = np.array(drawn, dtype=np.float64).reshape(-1, 2).T
    return Pairs(task, old, new, **more)  # type: ignore[arg-type]


def test_compatibility_by_hand() -> None:
    # Ten examples: 4 kept, 1 gained, 2 lost, 3 wrong in both, of which one otherwise than before.
    old = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0, 0], dtype=np.float64)
    new = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=np.float64)
    other = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0], dtype=bool)
    found = compatibility(old, new, other)
    assert found.matrix == FlipMatrix(both_right=4, gained=1, lost=2, both_wrong=3)
    assert found.negative_flips == wilson(2, 10)
    assert found.positive_flips == wilson(1, 10)
    assert found.kept == wilson(4, 6)
    assert found.other_mistakes == wilson(3, 10)
    assert (found.worse, found.better, found.regression, found.gain) == (0.2, 0.1, 1.0, 1.0)


def test_free_text_flips_by_degree() -> None:
    # Scores by degree: two fall by 0.2 and 0.4, one rises by 0.1, one stays.
    found = compatibility(np.array([0.8, 0.9, 0.3, 0.5]), np.array([0.6, 0.5, 0.4, 0.5]))
    assert (found.worse, found.better) == (0.5, 0.25)
    assert found.regression == pytest.approx(0.3)
    assert found.gain == pytest.approx(0.1)
    assert found.other_mistakes is None


@given(graded)
def test_flips_add_up_and_turn_over(drawn: list[tuple[float, float]]) -> None:
    old, new = np.array(drawn).T
    forth, back = compatibility(old, new), compatibility(new, old)
    assert forth.matrix.n == len(drawn)
    assert (forth.matrix.gained, forth.matrix.lost) == (back.matrix.lost, back.matrix.gained)
    assert (forth.worse, forth.gain) == (back.better, back.regression)
    moved = (forth.gain or 0) * forth.better - (forth.regression or 0) * forth.worse
    assert moved == pytest.approx(float((new - old).mean()))


@given(right_or_wrong)
def test_a_comparison_with_itself_says_nothing_and_its_mirror_the_opposite(drawn: list[tuple[float, float]]) -> None:
    both = pairs("t", drawn)
    forth = compare("a", "b", [both]).tasks[0]
    back = compare("b", "a", [Pairs("t", both.new, both.old)]).tasks[0]
    assert forth.difference.difference == -back.difference.difference
    assert forth.p == back.p
    assert {forth.verdict, back.verdict} in ({"no clear difference"}, {"better", "worse"})
    same = compare("a", "a", [Pairs("t", both.old, both.old)]).tasks[0]
    assert (same.verdict, same.p, same.difference.difference) == ("no clear difference", 1.0, 0.0)


def test_p_values_are_adjusted_over_all_tasks_and_models() -> None:
    clear = [(0.0, 1.0)] * 12 + [(1.0, 1.0)] * 20
    alone = compare("a", "b", [pairs("t", clear)]).tasks[0]
    assert alone.p == alone.mcnemar == pytest.approx(2 / 2**12)
    many = compare_many("a", {"b": [pairs("t", clear), pairs("u", [(1.0, 1.0)])], "c": [pairs("t", clear)]})
    assert [[task.p for task in one.tasks] for one in many] == [[3 * alone.p, 1.0], [3 * alone.p]]


def test_only_common_examples_count_and_are_told() -> None:
    found = compare("v1", "v2", [pairs("t", [(1.0, 0.0)] * 40, only_old=3, only_new=5), pairs("empty", [])])
    assert [task.task for task in found.tasks] == ["t"]
    assert found.notices == [
        "t: compared on the 40 examples both were asked; 3 only v1 and 5 only v2 was asked are left out."
    ]
    with pytest.raises(InputError, match="no example in common"):
        compare("v1", "v2", [pairs("t", [])])


def test_one_example_and_scores_that_are_none() -> None:
    found = compare("a", "b", [pairs("t", [(0.0, 1.0)])])
    assert found.tasks[0].verdict == "no clear difference"
    assert "Fewer than 30 examples of t" in found.notices[0]
    assert found.to_dict()["tasks"][0]["detectable"] is None
    with pytest.raises(InputError, match="not a number"):
        compare("a", "b", [pairs("t", [(0.0, float("nan"))])])


# ---------------------------------------------------------------------- gates


def test_a_gate_holds_only_when_the_examples_suffice() -> None:
    # 96 of 100 kept, 2 lost, 2 gained: no difference, with an interval of about four points either way.
    found = compare("a", "b", [pairs("t", [(1.0, 1.0)] * 96 + [(1.0, 0.0)] * 2 + [(0.0, 1.0)] * 2)])
    strict, plain, wide, broken = (
        Gate(at_least=-0.01),
        Gate(at_least=-0.01, judged_by="estimate"),
        Gate(at_least=-0.1),
        Gate(task="t", measure="score", at_least=0.99, judged_by="estimate"),
    )
    results = check_gates([strict, plain, wide, broken], found)
    assert [(r.passed, r.undecided) for r in results] == [(False, True), (True, False), (True, False), (False, False)]
    flips = check_gates([Gate(task="mean", measure="negative_flips", at_most=0.05, judged_by="estimate")], found)
    assert flips[0].value == wilson(2, 100)
    assert flips[0].passed


def test_nothing_to_lose_is_nothing_lost() -> None:
    found = compare("a", "b", [pairs("t", [(0.0, 0.0)] * 10)])
    result = check_gates([Gate(measure="kept", at_least=0.9)], found)[0]
    assert (result.value, result.passed) == (None, True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gates: []", "gates"),
        ("gates: [{taks: t, at_least: 0}]", "Did you mean 'task'?"),
        ("gates: [{task: t, ability: t, at_least: 0}]", "Remove `ability`"),
        ("gates: [{task: t}]", "either `at_least` or `at_most`"),
        ("gates: [{at_least: 0, at_most: 1}]", "either `at_least` or `at_most`"),
        ("gates: [{at_least: -2}]", "Write 2 points as 0.02"),
        ("gates: [{measure: flips, at_most: 1}]", "measure"),
        ("gates: [{at_least: .nan}]", "at_least"),
    ],
)
def test_a_wrong_gates_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_gates(file)
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_gates_file_with_the_older_key_is_read(tmp_path: Path) -> None:
    older, newer = tmp_path / "older.yaml", tmp_path / "newer.yaml"
    older.write_text("gates: [{ability: reverse, at_least: 0}, {at_least: 0}]")
    newer.write_text("gates: [{task: reverse, at_least: 0}, {at_least: 0}]")
    assert load_gates(older) == load_gates(newer)
    assert load_gates(older)[0].task == "reverse"


def test_a_gate_on_an_unknown_task_names_the_nearest() -> None:
    found = compare("a", "b", [pairs("reverse", [(1.0, 1.0)] * 5)])
    with pytest.raises(InputError) as caught:
        check_gates([Gate(at_least=0), Gate(task="revers", at_least=0)], found, "g.yaml")
    assert str(caught.value) == ("g.yaml:gates.1.task: no task 'revers' is compared. Did you mean 'reverse'?")
