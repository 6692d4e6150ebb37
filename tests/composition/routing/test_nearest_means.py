"""The two cheap routers: scikit-learn's choices, and a limit that declines as few inputs as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.composition.routing.nearest_means import (
    DECLINED,
    FOLDS,
    NearestMeans,
    conformal_limit,
    fold_numbers,
    judged_means,
    linear_discriminant,
    nearest_centroid,
    shrunk_covariance,
)


def drawn(seed: int, classes: int, each: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs of clouds of one shape, the cloud of each, and as many further inputs of the same clouds.

    One feature does not vary, and two are one.
    """
    dice = np.random.default_rng(seed)
    owners = np.repeat(np.arange(classes), 2 * each)
    centres, shape = 2 * dice.normal(size=(classes, width)), dice.normal(size=(width, width))
    features = centres[owners] + dice.normal(size=(len(owners), width)) @ shape
    features = np.hstack([features, np.full((len(owners), 1), 3.0), features[:, :1]])
    return features[::2], owners[::2], features[1::2]


@settings(max_examples=25)
@given(seed=st.integers(0, 999), classes=st.integers(2, 4), each=st.integers(2, 12), width=st.integers(1, 6))
def test_both_choose_as_scikit_learn(seed: int, classes: int, each: int, width: int) -> None:
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    neighbours = pytest.importorskip("sklearn.neighbors")
    features, owners, asked = drawn(seed, classes, each, width)
    for made, theirs in (
        (linear_discriminant, discriminant.LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
        (nearest_centroid, neighbours.NearestCentroid()),
    ):
        found = made(features, owners).nearest(torch.from_numpy(asked))[0].numpy()
        assert np.array_equal(found, theirs.fit(features, owners).predict(asked))


@settings(max_examples=25)
@given(seed=st.integers(0, 999), each=st.integers(2, 20), width=st.integers(1, 8))
def test_the_covariance_is_scikit_learns(seed: int, each: int, width: int) -> None:
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    features = np.random.default_rng(seed).normal(size=(each, width)) * np.arange(1, width + 1)
    assert np.allclose(shrunk_covariance(features), discriminant._cov(features, "auto"))


def test_distances_by_hand() -> None:
    known = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 10.0], [12.0, 10.0]])
    means = nearest_centroid(known, np.array([0, 0, 1, 1]))
    chosen, distances = means.nearest(torch.tensor([[1.0, 1.0], [11.0, 8.0], [5.9, 5.0], [6.1, 5.1]]))
    assert chosen.tolist() == [0, 1, 0, 1]
    assert distances[:2].tolist() == [1.0, 4.0]
    limited = NearestMeans(means.means, None, means.log_priors, 2.0)
    assert limited.chosen(torch.tensor([[1.0, 1.0], [11.0, 8.0]])).tolist() == [0, DECLINED]


def test_a_limit_by_hand() -> None:
    values = np.arange(1.0, 20.0)
    # 19 values: the largest of them is passed by one of 20 further ones.
    assert conformal_limit(values, 0.05) == 19.0
    assert conformal_limit(values, 0.1) == 18.0
    assert conformal_limit(values, 0.04) is None
    assert conformal_limit(values, 0.0) is None


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_inputs_like_the_others_are_declined_as_rarely_as_asked_and_far_ones_always(seed: int) -> None:
    features, owners, asked = drawn(seed, 3, 40, 4)
    for make in (nearest_centroid, linear_discriminant):
        judged = judged_means(make, features, owners, 0.1)
        assert judged.means.limit is not None
        assert (judged.distances > judged.means.limit).mean() <= 0.1
        # Expected are 12 of 120; 30 would be five standard deviations away.
        assert int((judged.means.chosen(torch.from_numpy(asked)) == DECLINED).sum()) < 30
        far = torch.from_numpy(features[:5] + 1e3)
        assert judged.means.chosen(far).tolist() == [DECLINED] * 5
        assert judged_means(make, features, owners, 0.0).means.limit is None


@given(counts=st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_every_fold_leaves_an_input_of_each_class(counts: list[int]) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    folds = fold_numbers(classes)
    for fold in range(FOLDS):
        assert set(classes[folds != fold]) == set(range(len(counts)))
