"""Transferability formulas, worked by hand, against direct computation, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.skills.transfer_scores import h_score, ledoit_wolf, logme, mean_ranks, normalised_ranks, tmi

SCORES = (tmi, logme, h_score)


def _drawn(seed: int, n: int, dimensions: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return generator.normal(size=(n, dimensions)) + generator.normal(size=(classes, dimensions))[labels], labels


def test_tmi_by_hand() -> None:
    # Class a: 0 and 2, variance 1; class b: (0, 0), (0, 3), (0, 6), variance 6. (2 * 1 + 3 * 6) / 5.
    features = [[0, 0], [2, 0], [0, 0], [0, 3], [0, 6]]
    assert tmi(features, ["a", "a", "b", "b", "b"]) == pytest.approx(4.0)


def test_h_score_by_hand() -> None:
    # One dimension: total variance of 0, 2, 4, 6 is 5; class means 1 and 5 around 3 have variance 4.
    assert h_score([[0], [2], [4], [6]], [0, 0, 1, 1], shrinkage=0) == pytest.approx(4 / 5)
    # Shrunk by half to the mean of the diagonal, which in one dimension is the variance itself.
    assert h_score([[0], [2], [4], [6]], [0, 0, 1, 1], shrinkage=0.5) == pytest.approx(2 / 5)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
@pytest.mark.parametrize(("n", "dimensions"), [(30, 4), (12, 20)])
def test_h_score_is_the_trace_it_is_defined_as(n: int, dimensions: int, shrinkage: float) -> None:
    features, labels = _drawn(0, n, dimensions, 3)
    means = np.stack([features[labels == c].mean(0) for c in range(3)])[labels]
    whole, between = (np.cov(x.T, bias=True) for x in (features, means))
    shrunk = (1 - shrinkage) * whole + shrinkage * np.trace(whole) / dimensions * np.eye(dimensions)
    expected = (1 - shrinkage) * np.trace(np.linalg.pinv(shrunk, rcond=1e-12) @ between)
    assert h_score(features, labels, shrinkage) == pytest.approx(expected, rel=1e-6)


def test_ledoit_wolf_as_in_scikit_learn() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    for n, dimensions in ((40, 5), (10, 30)):
        features = _drawn(1, n, dimensions, 2)[0]
        expected = covariance.ledoit_wolf_shrinkage(features)
        assert ledoit_wolf(features - features.mean(0)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "dimensions"), [(40, 3), (25, 6), (12, 30)])
def test_logme_is_the_largest_evidence(n: int, dimensions: int) -> None:
    optimize, stats = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.stats")
    features, labels = _drawn(2, n, dimensions, 2)
    labels[:3] = labels[:3][::-1]
    targets = [(labels == c).astype(float) for c in range(2)]

    def lost(logs: np.ndarray, target: np.ndarray) -> float:
        # The weights integrated out: y is normal around zero, with I / beta + F F' / alpha.
        alpha, beta = np.exp(np.clip(logs, -20, 20))
        covariance = np.eye(n) / beta + features @ features.T / alpha
        return -float(stats.multivariate_normal.logpdf(target, np.zeros(n), covariance)) / n

    found = [
        min(optimize.minimize(lost, start, args=(y,), method="Nelder-Mead").fun for start in ([0, 0], [3, 1]))
        for y in targets
    ]
    best = -float(np.mean(found))
    assert best - 0.01 < logme(features, labels) <= best + 1e-6


def test_logme_likes_classes_that_a_line_tells_apart() -> None:
    generator = np.random.default_rng(3)
    labels = np.arange(60) % 2
    noise = generator.normal(size=(60, 4))
    apart = noise + 4 * np.outer(labels, [1, 0, 0, 0])
    assert logme(apart, labels) > logme(noise, labels) + 0.3
    assert h_score(apart, labels) > h_score(noise, labels) + 0.5


@given(st.integers(0, 10**6), st.integers(4, 20), st.integers(1, 25), st.integers(2, 4))
def test_order_of_examples_names_of_classes_and_turns_change_nothing(
    seed: int, n: int, dimensions: int, classes: int
) -> None:
    features, labels = _drawn(seed, n, dimensions, classes)
    generator = np.random.default_rng(seed)
    order = generator.permutation(n)
    turn, _ = np.linalg.qr(generator.normal(size=(dimensions, dimensions)))
    renamed = np.array(["d", "c", "b", "a"])[labels]
    for score in SCORES:
        expected = score(features, labels)
        assert math.isfinite(expected)
        for other in (score(features[order], labels[order]), score(features, renamed), score(features @ turn, labels)):
            assert other == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(4, 20), st.integers(1, 25))
def test_tmi_and_h_score_ignore_a_shift_and_stay_in_range(seed: int, n: int, dimensions: int) -> None:
    features, labels = _drawn(seed, n, dimensions, 3)
    assert tmi(features + 5, labels) == pytest.approx(tmi(features, labels), abs=1e-9)
    assert h_score(features + 5, labels) == pytest.approx(h_score(features, labels), abs=1e-6)
    assert h_score(3 * features, labels) == pytest.approx(h_score(features, labels), rel=1e-6)
    # The total variance is within and between classes together.
    assert 0 <= tmi(features, labels) <= np.var(features, axis=0).sum() + 1e-9
    assert 0 <= h_score(features, labels) <= 2 + 1e-9
    assert 0 <= ledoit_wolf(features - features.mean(0)) <= 1


def test_features_that_say_nothing_or_are_no_numbers() -> None:
    labels = [0, 0, 1, 1]
    assert tmi(np.zeros((4, 3)), labels) == h_score(np.zeros((4, 3)), labels) == 0
    assert math.isfinite(logme(np.zeros((4, 3)), labels))
    broken = np.full((4, 3), np.nan)
    assert all(math.isnan(score(broken, labels)) for score in SCORES)


@pytest.mark.parametrize("score", SCORES)
def test_labels_that_do_not_fit_are_refused(score: object) -> None:
    assert callable(score)
    for features, labels in (([[1.0], [2.0]], [0]), ([1.0, 2.0], [0, 1]), (np.zeros((0, 2)), [])):
        with pytest.raises(InputError, match="a label for each row"):
            score(features, labels)


def test_ranks_by_hand() -> None:
    assert normalised_ranks([3, 1, 2]).tolist() == [1, 0, 0.5]
    # Places 0, 1 and 2, 3: the two in the middle share 1.5 of 3.
    assert normalised_ranks([5, 7, 7, 9]).tolist() == [0, 0.5, 0.5, 1]
    assert normalised_ranks([4, 4]).tolist() == [0.5, 0.5]
    assert normalised_ranks([8]).tolist() == [1]
    assert normalised_ranks([math.nan, -math.inf, math.inf]).tolist() == [0, 0.5, 1]
    assert mean_ranks([[3, 1, 2], [1, 2, 3]]).tolist() == [0.5, 0.25, 0.75]


def test_nothing_to_rank_is_refused() -> None:
    for bad in ([], [[1, 2]]):
        with pytest.raises(InputError, match="expected a vector"):
            normalised_ranks(bad)
    with pytest.raises(InputError, match="no score is given"):
        mean_ranks([])


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=12))
def test_ranks_know_only_the_order(values: list[int]) -> None:
    ranks = normalised_ranks(values)
    assert ranks.sum() == pytest.approx(len(values) / 2)
    np.testing.assert_allclose(normalised_ranks([math.exp(v) for v in values]), ranks)
    np.testing.assert_allclose(normalised_ranks([-v for v in values]), 1 - ranks)
    np.testing.assert_allclose(mean_ranks([values, values]), ranks)
