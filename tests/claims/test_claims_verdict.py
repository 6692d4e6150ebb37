"""Verdicts follow from paired outcomes by the rules as written, and by nothing else."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims.verdict import (
    FAILS,
    HOLDS,
    UNASKED,
    Contrast,
    Figure,
    better,
    better_at_no_cost,
    failing,
    kept,
)

marks = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


def _scores(pairs: list[tuple[bool, bool]], side: int) -> np.ndarray:
    return np.array([float(pair[side]) for pair in pairs])


def _figure(difference: float, lo: float, hi: float) -> Figure:
    return Figure(0.5 + difference, 0.5, difference, lo, hi)


@given(st.lists(marks, min_size=1, max_size=3))
def test_a_contrast_is_the_difference_of_the_means_of_the_tasks(tasks: list[list[tuple[bool, bool]]]) -> None:
    first, second = ([_scores(task, side) for task in tasks] for side in (0, 1))
    contrast = Contrast.of(first, second)
    assert contrast.difference == pytest.approx(
        np.mean([a.mean() - b.mean() for a, b in zip(first, second, strict=True)])
    )
    told = [(lost, same, won) for lost, same, won in contrast.changes]
    assert [sum(change) for change in told] == [len(task) for task in tasks]
    shares = [(won - lost) / (lost + same + won) for lost, same, won in told]
    assert np.mean(shares) == pytest.approx(contrast.difference)
    assert Contrast.from_json(json.loads(json.dumps(contrast.to_dict()))) == contrast


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="3 examples against 2"):
        Contrast.of([np.ones(3)], [np.ones(2)])


@given(st.lists(st.lists(marks, min_size=2, max_size=2), min_size=1, max_size=4))
def test_swapping_the_arms_turns_the_sign(seeds: list[list[list[tuple[bool, bool]]]]) -> None:
    def over(side: int) -> Figure:
        return Figure.of(
            [
                Contrast.of([_scores(task, side) for task in tasks], [_scores(task, 1 - side) for task in tasks])
                for tasks in seeds
            ]
        )

    one, other = over(0), over(1)
    assert one.lo <= one.difference <= one.hi
    assert one.difference == pytest.approx(-other.difference)
    assert (one.first, one.second) == (other.second, other.first)
    # The bootstrap's draws differ between the two, Student's part does not.
    assert one.lo == pytest.approx(-other.hi, abs=0.12)


def test_students_interval_where_the_seeds_disagree() -> None:
    # Differences of 0.2, 0.3 and 0.4 over so many examples that only the seeds are uncertain.
    size = 100_000
    contrasts = [Contrast(0.5 + d, 0.5, ((0, round(size * (1 - d)), round(size * d)),)) for d in (0.2, 0.3, 0.4)]
    figure = Figure.of(contrasts)
    half = 4.303 * 0.1 / math.sqrt(3)
    assert (figure.difference, figure.lo, figure.hi) == pytest.approx((0.3, 0.3 - half, 0.3 + half))


def test_the_bootstraps_interval_where_the_seeds_agree_by_chance() -> None:
    # Both seeds came out at exactly 0: only the examples tell that it could have been otherwise.
    figure = Figure.of([Contrast(0.5, 0.5, ((20, 60, 20),))] * 2)
    half = 1.96 * math.sqrt(0.4 / 200)
    assert (figure.lo, figure.hi) == pytest.approx((-half, half), rel=0.1)


def test_too_many_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="11 seeds"):
        Figure.of([Contrast(0.5, 0.5, ((1, 2, 1),))] * 11)


@pytest.mark.parametrize(
    ("lo", "hi", "verdicts"),
    [
        (0.01, 0.2, (HOLDS, HOLDS, FAILS)),
        (-0.02, 0.2, (FAILS, HOLDS, FAILS)),
        (-0.05, 0.2, (FAILS, FAILS, FAILS)),
        (-0.3, -0.11, (FAILS, FAILS, HOLDS)),
        (-0.3, -0.09, (FAILS, FAILS, FAILS)),
    ],
)
def test_the_rules_of_one_figure(lo: float, hi: float, verdicts: tuple[str, str, str]) -> None:
    figures = {"main": _figure((lo + hi) / 2, lo, hi)}
    assert tuple(rule("it").verdict(figures) for rule in (better, kept, failing)) == verdicts


@pytest.mark.parametrize(
    ("room", "main", "guard", "verdict"),
    [
        (0.02, 0.1, 0.0, UNASKED),
        (0.20, 0.1, -0.02, HOLDS),
        (0.20, -0.01, 0.0, FAILS),
        (0.20, 0.1, -0.04, FAILS),
    ],
)
def test_keeping_needs_something_to_keep_and_may_cost_little(
    room: float, main: float, guard: float, verdict: str
) -> None:
    figures = {
        "room": _figure(room, room, room), "main": _figure(main, main, 1), "guard": _figure(guard, guard, 1),
    }  # fmt: skip
    assert better_at_no_cost("it", "that").verdict(figures) == verdict
