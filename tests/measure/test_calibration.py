"""Calibration and abstention: against scikit-learn, by hand, and by simulation of what is promised."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.measure import abstention, calibration, consistency, guarantee

pairs = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def apart(drawn: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([one for one, _ in drawn]), np.array([float(hit) for _, hit in drawn])


# ---------------------------------------------------------------------- calibration


def test_worked_out() -> None:
    """Two bins: 0.2 with half right, 0.9 with all right."""
    found = calibration([0.2, 0.2, 0.9, 0.9], [0, 1, 1, 1], bins=2)
    assert [(one.n, one.confidence, one.right.mean) for one in found.bins] == [(2, 0.2, 0.5), (2, 0.9, 1.0)]
    assert found.ece.mean == pytest.approx((2 * 0.3 + 2 * 0.1) / 4)
    assert found.brier.mean == pytest.approx((0.04 + 0.64 + 0.01 + 0.01) / 4)
    assert found.reliability == pytest.approx((0.09 + 0.01) / 2)
    assert found.resolution == pytest.approx((0.25**2 + 0.25**2) / 2)
    assert found.uncertainty == pytest.approx(0.75 * 0.25)


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_against_scikit_learn(binning: str) -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, log_loss

    draw = np.random.default_rng(3)
    sure = draw.beta(3, 2, size=500)
    hits = (draw.random(500) < sure**2).astype(float)
    found = calibration(sure, hits, bins=8, binning=binning)  # type: ignore[arg-type]
    assert found.brier.mean == pytest.approx(brier_score_loss(hits, sure))
    assert found.log_loss == pytest.approx(log_loss(hits, sure))
    strategy = "quantile" if binning == "mass" else "uniform"
    rates, means = calibration_curve(hits, sure, n_bins=8, strategy=strategy)
    if binning == "width":
        assert [one.right.mean for one in found.bins] == pytest.approx(rates.tolist())
        assert [one.confidence for one in found.bins] == pytest.approx(means.tolist())
    else:
        # Quantiles may fall between two answers a place apart.
        assert [one.right.mean for one in found.bins] == pytest.approx(rates.tolist(), abs=0.03)
    assert found.temperature > 1
    assert found.p < 0.01


@pytest.mark.slow
@given(pairs, st.integers(1, 12), st.sampled_from(["mass", "width"]))
def test_brier_adds_up(drawn: list[tuple[float, int]], bins: int, binning: str) -> None:
    sure, hits = apart(drawn)
    found = calibration(sure, hits, bins=bins, binning=binning)  # type: ignore[arg-type]
    assert sum(one.n for one in found.bins) == len(sure)
    assert len(found.bins) <= bins
    total = found.reliability - found.resolution + found.uncertainty + found.within
    assert total == pytest.approx(found.brier.mean, abs=1e-12)
    assert found.ece.lo <= found.ece.mean <= found.ece.hi
    # Convexity: no binning shows more than the mean distance, nor less than that of the means.
    assert abs(sure.mean() - hits.mean()) - 1e-12 <= found.ece.mean <= np.abs(sure - hits).mean() + 1e-12
    highest = -1.0
    for one in found.bins:
        assert highest < one.lo <= one.confidence + 1e-12
        highest = one.hi


@pytest.mark.slow
def test_a_calibrated_model_is_seldom_called_miscalibrated() -> None:
    draw = np.random.default_rng(0)
    called, errors, expected = 0, [], []
    for trial in range(50):
        sure = draw.uniform(0.1, 1, size=150)
        found = calibration(sure, (draw.random(150) < sure).astype(float), seed=trial)
        called += found.p < 0.05
        errors.append(found.ece.mean)
        expected.append(found.by_chance)
    assert called <= 7
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.08)


def test_one_answer_and_all_right() -> None:
    one = calibration([0.7], [1])
    assert (one.n, len(one.bins), one.ece.mean) == (1, 1, pytest.approx(0.3))
    sure = calibration([1.0, 1.0], [1, 1])
    assert (sure.ece.mean, sure.brier.mean) == (0, 0)
    assert np.isfinite(sure.log_loss)


@pytest.mark.parametrize(
    ("sure", "hits", "said"),
    [
        ([], [], "shape"),
        ([0.5], [1, 0], "shape"),
        ([1.5], [1], "every confidence must be from 0 to 1"),
        ([float("nan")], [1], "every confidence must be from 0 to 1"),
        ([0.5], [0.5], "must be 0 or 1"),
    ],
)
def test_wrong_input(sure: list[float], hits: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        calibration(sure, hits)


# ---------------------------------------------------------------------- abstention


def test_risk_and_coverage_worked_out() -> None:
    found = abstention([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0])
    assert found.curve == ((0.25, 0.0), (0.5, 0.5), (0.75, pytest.approx(1 / 3)), (1.0, 0.5))
    assert found.aurc == pytest.approx((0 + 0.5 + 1 / 3 + 0.5) / 4)
    assert found.excess == pytest.approx(found.aurc - (0 + 0 + 1 / 3 + 0.5) / 4)
    assert found.auroc == pytest.approx(0.75)
    assert (found.at[-1].n, found.at[-1].threshold, found.at[-1].right.mean) == (2, 0.8, 0.5)


@given(pairs)
def test_ties_enter_in_random_order(drawn: list[tuple[float, int]]) -> None:
    """The curve is the mean over every order of equally sure answers."""
    sure, hits = apart([(round(one, 0), hit) for one, hit in drawn[:6]])
    orders = [
        order
        for order in itertools.permutations(range(len(sure)))
        if all(sure[a] >= sure[b] for a, b in itertools.pairwise(order))
    ]
    expected = np.mean([1 - np.cumsum(hits[list(order)]) / np.arange(1, len(sure) + 1) for order in orders], axis=0)
    assert [risk for _, risk in abstention(sure, hits).curve] == pytest.approx(expected.tolist(), abs=1e-12)


def test_auroc_is_scikit_learns() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(5)
    sure, hits = draw.random(200).round(1), draw.integers(0, 2, 200)
    assert abstention(sure, hits).auroc == pytest.approx(roc_auc_score(hits, sure))
    assert abstention(sure, np.ones(200)).auroc is None


def test_a_guarantee_holds_as_often_as_stated() -> None:
    """True risk above a threshold t is E[1 - c | c >= t] here, where the chance of being right is c itself."""
    draw = np.random.default_rng(1)
    broken = given_out = 0
    for _ in range(300):
        sure = draw.uniform(0.5, 1, size=200)
        found = guarantee(sure, (draw.random(200) < sure).astype(float), risk=0.15, delta=0.1)
        if found is not None:
            given_out += 1
            broken += 1 - (found.threshold + 1) / 2 > 0.15
    assert given_out > 200
    assert broken <= 0.1 * 300 + 2 * np.sqrt(300 * 0.1 * 0.9)


def test_a_guarantee_needs_enough_answers() -> None:
    assert guarantee([0.9] * 10, [1] * 10, risk=0.1) is None
    found = guarantee([0.9] * 40, [1] * 40, risk=0.1)
    assert found is not None
    assert (found.threshold, found.coverage, found.risk) == (0.9, 1.0, 0.0)
    assert guarantee(np.linspace(0, 1, 400), [0] * 400, risk=0.1) is None


# ---------------------------------------------------------------------- consistency


def test_consistency_worked_out() -> None:
    scores = [np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 0, 1])]
    found = consistency(scores, [["a", "b", "c", "d"], [" A ", "x", "c", "y"]])
    assert [one.mean for one in found.right] == [0.5, 0.5]
    assert (found.robust.mean, found.any.mean) == (0.25, 0.75)
    assert found.alike is not None
    assert found.agreement is not None
    assert (found.alike.mean, found.agreement.mean) == (0.5, 0.5)


def test_kappa_is_fleiss_own_example() -> None:
    """The table of Fleiss 1971 as it is usually given: 14 raters, 10 subjects, 5 categories, kappa 0.210."""
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    rows = [[str(kind) for kind, count in enumerate(row) for _ in range(count)] for row in counts]
    outputs = [[row[rater] for row in rows] for rater in range(14)]
    found = consistency([np.zeros(10)] * 14, outputs)
    assert found.kappa == pytest.approx(0.210, abs=5e-4)


@given(st.lists(st.lists(st.sampled_from("ab "), min_size=3, max_size=3), min_size=1, max_size=8))
def test_bounds(rows: list[list[str]]) -> None:
    outputs = [[row[v] for row in rows] for v in range(3)]
    scores = [np.array([float(answer == "a") for answer in column]) for column in outputs]
    found = consistency(scores, outputs)
    assert found.alike is not None
    assert found.agreement is not None
    assert found.robust.mean <= min(one.mean for one in found.right) <= found.any.mean
    assert found.alike.mean <= found.agreement.mean + 1e-12
    assert found.kappa is None or found.kappa <= 1 + 1e-12


def test_consistency_needs_two_of_the_same() -> None:
    with pytest.raises(InputError, match="there are fewer than two variations"):
        consistency([np.zeros(3)])
    with pytest.raises(InputError, match="different questions"):
        consistency([np.zeros(3), np.zeros(2)])
    unknown = consistency([np.zeros(1), np.zeros(1)], [["a"], [None]])
    assert (unknown.alike, unknown.agreement, unknown.kappa) == (None, None, None)
