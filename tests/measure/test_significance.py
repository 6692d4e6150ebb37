"""Tests and corrections: against scipy, worked by hand, and how often they are wrong by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from genepool import seeding
from genepool.errors import InputError
from genepool.measure import benjamini_hochberg, detectable_difference, examples_needed, holm, mcnemar

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_by_hand_and_with_a_million_flips() -> None:
    # Five flips, all one way: two tails of 1/32.
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert mcnemar(0, 0) == 1
    assert mcnemar(500_000, 502_000) == pytest.approx(binomtest(500_000, 1_002_000).pvalue, rel=1e-6)


def test_mcnemar_is_wrong_no_more_often_than_it_says() -> None:
    generator = seeding.numpy_generator(0, "level")
    for disagreement, n in ((0.1, 100), (0.4, 300)):
        flipped = generator.binomial(n, disagreement, size=4000)
        gained = generator.binomial(flipped, 0.5)
        wrong = np.mean([mcnemar(int(g), int(f - g)) < 0.05 for g, f in zip(gained, flipped, strict=True)])
        assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_corrections_by_hand() -> None:
    # Holm: 0.01*3, then max(0.03, 0.02*2), then max(0.04, 0.03*1). Benjamini-Hochberg: 0.01*3, 0.02*3/2, 0.03*3/3.
    assert holm([0.02, 0.01, 0.03]).tolist() == pytest.approx([0.04, 0.03, 0.04])
    assert benjamini_hochberg([0.02, 0.01, 0.03]).tolist() == pytest.approx([0.03, 0.03, 0.03])


@given(p_values)
def test_corrections_only_raise_keep_the_order_and_holm_is_the_stricter(ps: list[float]) -> None:
    strict, loose = holm(ps), benjamini_hochberg(ps)
    order = np.argsort(ps, kind="stable")
    for adjusted in (strict, loose):
        assert (adjusted >= np.array(ps) - 1e-12).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[order]) >= -1e-12).all()
    assert (strict >= loose - 1e-12).all()
    # Never more lenient than nothing, never stricter than Bonferroni.
    assert (strict <= np.minimum(np.array(ps) * len(ps), 1) + 1e-12).all()


def test_holm_keeps_the_chance_of_any_false_discovery() -> None:
    ps = seeding.numpy_generator(0, "family").uniform(size=(4000, 6))
    wrong = np.mean([(holm(row) < 0.05).any() for row in ps])
    assert wrong == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 4000))


@pytest.mark.slow
@example(n=6, disagreement=1.0)
@example(n=11, disagreement=1.0)
@given(st.integers(1, 10_000), st.floats(0.01, 1))
def test_what_can_be_detected_and_what_it_takes_are_each_others_inverse(n: int, disagreement: float) -> None:
    smallest = detectable_difference(n, disagreement)
    if math.isfinite(smallest):
        assert 0 < smallest <= disagreement
        # The power of an exact test is a little jagged in n, and the answer is told to a thousandth.
        assert examples_needed(smallest, disagreement) <= n
        assert examples_needed(smallest * 0.98, disagreement) >= 0.96 * n - 3


@pytest.mark.parametrize(("n", "disagreement"), [(100, 0.2), (30, 0.5), (1000, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(n: int, disagreement: float) -> None:
    d = detectable_difference(n, disagreement)
    generator = seeding.numpy_generator(0, "power", n)
    gained, lost = (disagreement + d) / 2, (disagreement - d) / 2
    drawn = generator.multinomial(n, [gained, lost, 1 - disagreement], size=3000)
    found = np.mean([mcnemar(int(g), int(w)) <= 0.05 for g, w, _ in drawn])
    assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 3000))


def test_what_cannot_be_asked() -> None:
    assert detectable_difference(3, 0.5) == math.inf
    for call in (
        lambda: detectable_difference(0, 0.5),
        lambda: detectable_difference(5, 1.5),
        lambda: detectable_difference(5, 0.5, power=1.0),
        lambda: examples_needed(0.3, 0.2),
        lambda: mcnemar(-1, 2),
    ):
        with pytest.raises(InputError):
            call()
