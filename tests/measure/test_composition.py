"""Composition: what must hold for any scores, examples by hand and from the papers, scipy's sign test, coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from genepool import seeding
from genepool.errors import InputError
from genepool.measure import mean_interval, wilson
from genepool.measure.composition import CrossCapability, point_scores, skill_mix, weakest_link

rows = st.lists(st.builds(CrossCapability, *[st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.9])] * 3), min_size=1, max_size=30)
examples = st.lists(
    st.tuples(
        st.sets(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda skills: tuple(sorted(skills))),
        st.sampled_from([0.0, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=25,
)


# ---------------------------------------------------------------------- cross-capabilities


@pytest.mark.parametrize(
    ("first", "second", "both", "position", "place"),
    [
        (0.4, 0.8, 0.3, -0.25, "below both"),
        (0.8, 0.4, 0.4, 0.0, "nearer the weaker"),
        (0.4, 0.8, 0.5, 0.25, "nearer the weaker"),
        (0.4, 0.8, 0.6, 0.5, "halfway"),
        (0.8, 0.4, 0.7, 0.75, "nearer the stronger"),
        (0.4, 0.8, 0.8, 1.0, "nearer the stronger"),
        (0.4, 0.8, 0.9, 1.25, "above both"),
        (0.4, 0.4, 0.9, None, None),
        # 0.1 + 0.2 is the same score as 0.3.
        (0.1 + 0.2, 0.3, 0.5, None, None),
    ],
)
def test_positions_by_hand(first: float, second: float, both: float, position: float | None, place: str | None) -> None:
    row = CrossCapability(first, second, both)
    assert row.position == (None if position is None else pytest.approx(position))
    assert row.place == place


@given(rows)
def test_every_row_counts_once_and_the_order_of_tasks_is_no_matter(drawn: list[CrossCapability]) -> None:
    found = weakest_link(drawn)
    places = (found.below, found.nearer_weaker, found.halfway, found.nearer_stronger, found.above, found.equal)
    assert sum(places) == len(drawn)
    assert found == weakest_link([CrossCapability(row.second, row.first, row.both) for row in drawn][::-1])
    weaker, stronger = found.below + found.nearer_weaker, found.nearer_stronger + found.above
    expected = binomtest(weaker, weaker + stronger, 0.5).pvalue if weaker + stronger else 1.0
    assert found.p == pytest.approx(expected)
    assert found.weaker == (wilson(weaker, weaker + stronger) if weaker + stronger else None)
    # Turned upside down, the weaker task is the stronger.
    turned = weakest_link([CrossCapability(-row.first, -row.second, -row.both) for row in drawn])
    assert (turned.below, turned.nearer_weaker, turned.p) == (found.above, found.nearer_stronger, found.p)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_papers_counts_are_no_chance() -> None:
    # Zhong et al. 2024: of 58 scores 38 below both and 20 between, nearer the weaker: two tails of 2^-58.
    below, between = CrossCapability(60, 70, 55), CrossCapability(60, 70, 62)
    found = weakest_link([below] * 38 + [between] * 20)
    assert (found.below, found.nearer_weaker, found.nearer_stronger, found.above) == (38, 20, 0, 0)
    assert found.p == pytest.approx(2.0**-57)
    assert found.median == pytest.approx(-0.5)


def test_rows_without_a_weaker_task_decide_nothing() -> None:
    found = weakest_link([CrossCapability(0.5, 0.5, 0.1)] * 3)
    assert (found.equal, found.weaker, found.median, found.p) == (3, None, None, 1.0)
    with pytest.raises(InputError, match="there are no rows"):
        weakest_link([])
    with pytest.raises(InputError, match="not a number"):
        CrossCapability(0.5, math.nan, 0.5)


# ---------------------------------------------------------------------- mixes of skills


def mix(*groups: tuple[str, int, int]) -> tuple[list[tuple[str, ...]], list[float]]:
    """Examples: (skills, right, of), skills being letters."""
    tags, scores = [], []
    for skills, right, count in groups:
        tags += [tuple(skills)] * count
        scores += [1.0] * right + [0.0] * (count - right)
    return tags, scores


def test_a_mix_by_hand() -> None:
    found = skill_mix(*mix(("a", 8, 10), ("b", 5, 10), ("c", 10, 10), ("ab", 1, 5), ("cb", 3, 5), ("abc", 0, 4)))
    assert found.singles == {"a": wilson(8, 10), "b": wilson(5, 10), "c": wilson(10, 10)}
    assert [(m.k, m.skills, m.n) for m in found.by_k] == [(2, (), 10), (3, (), 4)]
    assert [(m.k, m.skills, m.n) for m in found.combinations] == [
        (2, ("a", "b"), 5),
        (2, ("b", "c"), 5),
        (3, ("a", "b", "c"), 4),
    ]
    ab, bc, abc = found.combinations
    assert (ab.success, ab.expected) == (wilson(1, 5), pytest.approx(0.4))
    assert ab.difference is not None
    assert ab.difference.difference == pytest.approx(-0.2)
    assert ab.ratio is not None
    assert ab.ratio.mean == pytest.approx(0.5)
    assert bc.expected == pytest.approx(0.5)
    # Two and two: the mean of the combinations' products.
    assert (found.by_k[0].success, found.by_k[0].expected) == (wilson(4, 10), pytest.approx(0.45))
    assert abc.ratio is not None
    assert (abc.ratio.mean, abc.ratio.lo, abc.ratio.hi) == (0, 0, 0)
    assert abc.difference is not None
    assert abc.difference.hi < 0


@given(examples)
def test_mixes_hold_what_they_say(drawn: list[tuple[tuple[str, ...], float]]) -> None:
    tags, scores = [skills for skills, _ in drawn], np.array([score for _, score in drawn])
    found = skill_mix(tags, scores)
    for mixed in (*found.by_k, *found.combinations):
        mine = np.array([s == mixed.skills or (not mixed.skills and len(s) == mixed.k) for s in tags])
        assert mixed.n == mine.sum()
        assert mixed.success == mean_interval(scores[mine])
        known = {skill for s, here in zip(tags, mine, strict=True) if here for skill in s} <= set(found.singles)
        assert (mixed.expected is not None) == (mixed.difference is not None) == known
        if mixed.difference is not None and mixed.expected is not None:
            assert mixed.difference.difference == pytest.approx(mixed.success.mean - mixed.expected)
            assert -1 <= mixed.difference.lo <= mixed.difference.hi <= 1
        assert (mixed.ratio is None) == (not mixed.expected)
        assert mixed.ratio is None or 0 <= mixed.ratio.lo <= mixed.ratio.hi
    assert sum(mixed.n for mixed in found.by_k) == sum(mixed.n for mixed in found.combinations)
    json.dumps(found.to_dict(), allow_nan=False)
    # Neither the order of skills within an example nor other tags matter.
    shuffled = [("topic", *reversed(skills)) for skills in tags]
    assert skill_mix(shuffled, scores, among={"a", "b", "c"}) == found


def test_a_skill_never_asked_alone_leaves_its_mixes_without_expectation() -> None:
    found = skill_mix(*mix(("a", 5, 10), ("ab", 5, 10), ("abc", 1, 2)))
    assert [mixed.expected for mixed in found.by_k] == [None, None]
    assert (found.by_k[0].success, found.by_k[0].difference, found.by_k[0].ratio) == (wilson(5, 10), None, None)


def test_an_impossible_skill_gives_a_difference_and_no_ratio() -> None:
    found = skill_mix(*mix(("a", 0, 10), ("b", 5, 10), ("ab", 3, 10))).by_k[0]
    assert (found.expected, found.ratio) == (0.0, None)
    assert found.difference is not None
    assert found.difference.difference == pytest.approx(0.3)
    # One right of ten may well be none in another draw: no upper end.
    rare = skill_mix(*mix(("a", 1, 10), ("b", 10, 10), ("ab", 5, 10))).by_k[0]
    assert rare.ratio is not None
    assert rare.ratio.hi == math.inf
    assert rare.to_dict()["ratio"]["hi"] is None


def test_the_bootstrap_of_a_mix_is_as_wide_as_its_three_doubts_together() -> None:
    # Var(s - p q) = s(1-s)/n + q^2 p(1-p)/n + p^2 q(1-q)/n, the delta method.
    found = skill_mix(*mix(("a", 160, 200), ("b", 120, 200), ("ab", 96, 200))).by_k[0]
    assert found.difference is not None
    assert found.difference.difference == pytest.approx(0)
    spread = math.sqrt((0.48 * 0.52 + 0.36 * 0.16 + 0.64 * 0.24) / 200)
    assert (found.difference.hi - found.difference.lo) / (2 * 1.96) == pytest.approx(spread, rel=0.05)
    assert found.difference.p == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_the_interval_of_many_small_combinations_covers_independence() -> None:
    generator = seeding.numpy_generator(0, "coverage")
    names = "abcde"
    pairs = [a + b for i, a in enumerate(names) for b in names[i + 1 :]]
    truth = dict(zip(names, np.linspace(0.5, 0.9, 5), strict=True))
    covered = {"difference": 0, "ratio": 0}
    for _ in range(60):
        tags = [tuple(name) for name in [*(name for name in names for _ in range(30)), *pairs * 6]]
        chance = np.array([math.prod(truth[skill] for skill in of) for of in tags])
        found = skill_mix(tags, (generator.random(len(tags)) < chance).astype(float)).by_k[0]
        assert found.difference is not None
        assert found.ratio is not None
        covered["difference"] += found.difference.lo <= 0 <= found.difference.hi
        covered["ratio"] += found.ratio.lo <= 1 <= found.ratio.hi
    # 95% of 60 is 57; four standard deviations are 7.
    assert all(count >= 50 for count in covered.values()), covered


@pytest.mark.parametrize(
    ("tags", "scores", "complaint"),
    [
        ([], [], "for 0 examples"),
        ([("a",)], [1.0, 0.0], "for 1 examples"),
        ([("a",), ()], [1.0, 0.0], "example 1 is tagged with no skill"),
        ([("a", "b", "a")], [1.0], "one of them twice"),
        ([("a",)], [math.nan], "from 0 to 1"),
        ([("a",)], [2.0], "from 0 to 1"),
    ],
)
def test_what_is_no_mix_is_refused(tags: list[tuple[str, ...]], scores: list[float], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        skill_mix(tags, scores)


# ---------------------------------------------------------------------- points of Skill-Mix


def test_points_by_hand() -> None:
    skills = [[1, 1], [1, 1], [1, 1], [1, 0], [1, 0], [0, 0]]
    others = [[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]
    found = point_scores(skills, others)
    assert (found.k, found.n) == (2, 6)
    assert found.full_marks == wilson(1, 6)
    assert found.all_skills == wilson(2, 6)
    # 1, then 0 twice for want of a point, then a half, then 0 twice.
    assert found.skill_fraction == mean_interval(np.array([1, 0, 0, 0.5, 0, 0]))
    assert found.to_dict()["full_marks"]["mean"] == pytest.approx(1 / 6)


@given(st.integers(1, 4), st.integers(1, 12), st.randoms(use_true_random=False))
def test_full_marks_are_the_hardest_score(k: int, n: int, random: object) -> None:
    draw = random.randint  # type: ignore[attr-defined]
    skills = [[draw(0, 1) for _ in range(k)] for _ in range(n)]
    others = [[draw(0, 1) for _ in range(3)] for _ in range(n)]
    found = point_scores(skills, others)
    assert found.full_marks.mean <= min(found.all_skills.mean, found.skill_fraction.mean + 1e-12)
    if k == 1:
        assert found.full_marks.mean == found.skill_fraction.mean


@pytest.mark.parametrize(
    ("skills", "others"),
    [([[1]], [[1, 1]]), ([[1]], [[1, 1, 1], [1, 1, 1]]), ([[2]], [[1, 1, 1]]), ([], []), ([1], [1, 1, 1])],
)
def test_what_are_no_points_is_refused(skills: list[list[int]], others: list[list[int]]) -> None:
    with pytest.raises(InputError, match="mark"):
        point_scores(skills, others)
