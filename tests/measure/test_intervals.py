"""Intervals: worked values, what must hold for any scores, and how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genepool.errors import InputError
from genepool.measure import (
    macro_interval,
    macro_paired_bootstrap,
    mean_interval,
    paired_bootstrap,
    wilson,
)
from genepool.measure.intervals import resampled_means

right_or_wrong = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40).map(np.array)
scores = st.integers(1, 25).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(0, 1, width=16)))
pairs = st.integers(1, 25).flatmap(
    lambda n: st.tuples(*[arrays(np.float64, n, elements=st.sampled_from([0.0, 0.25, 1.0]))] * 2)
)


@pytest.mark.parametrize(
    ("successes", "n", "lo", "hi"),
    [
        # Newcombe 1998, table I, method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: at n of n the lower end is n / (n + z^2).
        (10, 10, 10 / (10 + 1.959963984540054**2), 1.0),
    ],
)
def test_wilson_gives_the_published_ends(successes: int, n: int, lo: float, hi: float) -> None:
    interval = wilson(successes, n)
    assert interval.mean == successes / n
    assert (interval.lo, interval.hi) == pytest.approx((lo, hi), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_mirror_of_the_failures_and_holds_its_mean(drawn: tuple[int, int]) -> None:
    successes, n = drawn
    one, other = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= one.lo <= one.mean <= one.hi <= 1
    assert (one.lo, one.hi) == pytest.approx((1 - other.hi, 1 - other.lo))


@given(right_or_wrong)
def test_right_or_wrong_scores_get_wilsons_interval(values: np.ndarray) -> None:
    assert mean_interval(values) == wilson(values.sum(), len(values))


@given(scores)
def test_an_interval_stays_within_the_scores_and_repeats(values: np.ndarray) -> None:
    interval = mean_interval(values, seed=3)
    assert interval == mean_interval(values, seed=3)
    assert interval.mean == pytest.approx(values.mean())
    if not np.isin(values, (0, 1)).all():
        assert values.min() - 1e-9 <= interval.lo <= interval.hi <= values.max() + 1e-9


@given(pairs)
def test_swapping_the_models_turns_the_sign_and_nothing_else(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    one, other = paired_bootstrap(first, second, seed=1), paired_bootstrap(second, first, seed=1)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.lo, one.hi) == pytest.approx((-other.hi, -other.lo))
    assert one.p == other.p
    assert one.sure == other.sure


@given(scores)
def test_a_model_against_itself_is_no_different(values: np.ndarray) -> None:
    assert paired_bootstrap(values, values) == (0.0, 0.0, 0.0, 1.0)


def test_a_difference_on_every_example_is_as_sure_as_the_draws_allow() -> None:
    difference = paired_bootstrap(np.ones(12), np.zeros(12))
    assert difference[:3] == (1.0, 1.0, 1.0)
    assert difference.sure
    # Neither end of the scale is ever reached by a finite number of draws.
    assert 0 < difference.p < 1e-3


def test_the_p_value_of_few_flips_is_the_share_of_resamples_on_the_other_side() -> None:
    # One gain in four examples, no loss: the resamples without the gain have probability (3/4)^4 = 0.316.
    # The other tail is all resamples, so the doubled smaller one is 2 * 0.316.
    difference = paired_bootstrap(np.array([1.0, 1, 0, 0]), np.array([0.0, 1, 0, 0]))
    assert difference.difference == 0.25
    assert difference.p == pytest.approx(2 * 0.75**4, abs=0.02)
    assert not difference.sure


def test_each_task_counts_the_same_however_many_examples_it_has() -> None:
    many, few = np.ones(900), np.zeros(100)
    assert macro_interval([many, few]).mean == 0.5
    assert macro_paired_bootstrap([many, few], [np.zeros(900), np.zeros(100)]).difference == 0.5


@given(st.lists(right_or_wrong, min_size=2, max_size=5))
def test_arms_of_tasks_add_up_as_squares_and_are_never_without_width(parts: list[np.ndarray]) -> None:
    own = [mean_interval(part) for part in parts]
    macro = macro_interval(parts)
    assert macro.mean == pytest.approx(np.mean([one.mean for one in own]))
    assert ((macro.mean - macro.lo) * len(own)) ** 2 == pytest.approx(sum((one.mean - one.lo) ** 2 for one in own))
    assert ((macro.hi - macro.mean) * len(own)) ** 2 == pytest.approx(sum((one.hi - one.mean) ** 2 for one in own))
    assert -1e-12 <= macro.lo < macro.hi <= 1 + 1e-12


def test_one_task_keeps_its_own_interval_and_no_task_has_none() -> None:
    assert macro_interval([np.array([1.0, 1, 0])]) == wilson(2, 3)
    with pytest.raises(InputError, match="no tasks"):
        macro_interval([])


def test_the_mean_over_tasks_is_covered_near_the_ends_of_the_scale_too() -> None:
    generator = np.random.default_rng(5)
    truth = (0.98, 0.9, 0.5)
    covered = 0
    for _ in range(400):
        _, lo, hi = macro_interval([(generator.random(60) < p).astype(float) for p in truth])
        covered += lo <= sum(truth) / 3 <= hi
    # 95% of 400 is 380; four standard deviations are 17.
    assert 363 <= covered <= 397


@given(right_or_wrong)
def test_counting_distinct_values_is_the_same_bootstrap(values: np.ndarray) -> None:
    means = resampled_means(values, seed=5, draws=4000)
    assert means.shape == (4000,)
    spread = values.std() / np.sqrt(len(values))
    assert means.mean() == pytest.approx(values.mean(), abs=5 * spread / np.sqrt(4000) + 1e-12)
    assert means.std() == pytest.approx(spread, rel=0.1, abs=1e-12)


def test_many_different_scores_are_resampled_piece_by_piece() -> None:
    values = np.random.default_rng(0).random(3000)
    means = resampled_means(values, draws=800)
    assert means.shape == (800,)
    assert means.mean() == pytest.approx(values.mean(), abs=5 * values.std() / np.sqrt(3000 * 800))
    assert means.std() == pytest.approx(values.std() / np.sqrt(3000), rel=0.15)


@pytest.mark.slow
def test_the_bootstrap_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        first = (generator.random(120) < 0.7).astype(float)
        second = np.where(generator.random(120) < 0.3, 1 - first, first)
        truth = 0.7 - (0.7 * 0.7 + 0.3 * 0.3)
        _, lo, hi, _ = paired_bootstrap(first, second)
        covered += lo <= truth <= hi
    # 95% of 200 is 190; four standard deviations are 12.
    assert 178 <= covered <= 200


@pytest.mark.slow
def test_no_difference_is_rarely_called_one() -> None:
    generator = np.random.default_rng(11)
    called = 0
    for _ in range(200):
        first, second = (generator.random((2, 100)) < 0.5).astype(float)
        called += paired_bootstrap(first, second).p < 0.05
    assert called <= 10 + 12


@pytest.mark.parametrize("wrong", [np.array([]), np.array([np.nan, 1.0]), np.ones((2, 2))])
def test_what_has_no_mean_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError):
        mean_interval(wrong)
    with pytest.raises(InputError):
        paired_bootstrap(wrong, wrong)


def test_different_examples_are_not_compared() -> None:
    with pytest.raises(InputError, match="got 2 examples, expected 3"):
        paired_bootstrap(np.ones(3), np.ones(2))
    with pytest.raises(InputError, match="got 2 tasks, expected 1"):
        macro_paired_bootstrap([np.ones(2)], [np.ones(2), np.ones(2)])
    with pytest.raises(InputError, match="no scores"):
        wilson(0, 0)
