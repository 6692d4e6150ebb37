"""How well a model's features tell classes apart, as formulas: TMI, LogME and H-score; and rankings put into one.

Pure functions of numpy arrays: features (n, d), one row an example, and n labels. Higher is better in all of them.
All work where there are fewer examples than dimensions, through the singular values of the n x d matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.errors import InputError

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# Rounds of LogME's fixed point at most, and the relative step below which it stands still.
_ROUNDS, _STILL = 11, 0.01
# Keeps precisions finite where a class is fitted without any error.
_TINY = 1e-5


def tmi(features: ArrayLike, labels: ArrayLike) -> float:
    """Variance within the classes, (1/n) sum_c n_c tr(Cov_c) with Cov_c over n_c: features that stay general.

    Xu and Kang, "Fast and Accurate Transferability Measurement by Evaluating Intra-class Feature Variance", ICCV 2023.

    Returns:
        The score; NaN when a feature is not a number.
    """
    points, classes, count = _checked(features, labels)
    return float(np.square(points - _class_means(points, classes, count)[classes]).sum() / len(points))


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Log evidence of a Bayesian linear model for each class against the others, over n; mean of the classes.

    You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021, algorithm 1: the
    evidence p(y | F, alpha, beta), y 1 for the class and 0 else, is maximised over both precisions by a fixed point.

    Returns:
        The score; NaN when a feature is not a number.
    """
    points, classes, count = _checked(features, labels)
    if not np.isfinite(points).all():
        return float("nan")
    left, sizes, _ = np.linalg.svd(points, full_matrices=False)
    found = [_evidence(left, sizes**2, points.shape[1], (classes == c).astype(np.float64)) for c in range(count)]
    return float(np.mean(found))


def _evidence(left: Floats, squares: Floats, dimensions: int, target: Floats) -> float:
    """The largest evidence of one target over n.

    Args:
        left: left singular vectors of the features, (n, k).
        squares: squared singular values, (k,).
    """
    n = len(target)
    along = left.T @ target
    # What no weights can reach.
    outside = max(float(target @ target - along @ along), 0.0)
    alpha = beta = ratio = 1.0
    size = error = 0.0
    for _ in range(_ROUNDS):
        gamma = float((squares / (squares + ratio)).sum())
        size = float((squares * np.square(along / (squares + ratio))).sum())
        error = outside + float(np.square(along * ratio / (squares + ratio)).sum())
        # Features that are all zero leave nothing to fit: gamma is 0 then.
        alpha, beta = max(gamma, _TINY) / (size + _TINY), (n - gamma) / (error + _TINY)
        before, ratio = ratio, alpha / beta
        if abs(ratio - before) <= _STILL * before:
            break
    log_volume = np.log(alpha + beta * squares).sum() + (dimensions - len(squares)) * np.log(alpha)
    evidence = dimensions * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - log_volume - beta * error - alpha * size
    return float(evidence / (2 * n))


def h_score(features: ArrayLike, labels: ArrayLike, shrinkage: float | None = None) -> float:
    """tr(Cov(f)^-1 Cov(E[f|y])): how much of the features' variance, in every direction alike, is between classes.

    Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning", ICIP 2019; with few
    examples Cov(f) is shrunk to a = (1 - s) Cov(f) + s mean(diag Cov(f)) I and Cov(E[f|y]) multiplied by 1 - s, as by
    Ibrahim et al., "Newer is not Always Better: Rethinking Transferability Metrics", 2021.

    Args:
        features, labels: the examples.
        shrinkage: s, from 0 (none: the pseudo-inverse) to 1; Ledoit and Wolf's when None.

    Returns:
        The score, 0 at least and the number of classes less one at most; NaN when a feature is not a number.
    """
    points, classes, count = _checked(features, labels)
    if not np.isfinite(points).all():
        return float("nan")
    points = points - points.mean(0)
    n, dimensions = points.shape
    _, sizes, right = np.linalg.svd(points, full_matrices=False)
    kept = sizes > max(sizes.max(initial=0.0), 1.0) * max(points.shape) * np.finfo(np.float64).eps
    if not kept.any():
        return 0.0
    variances, directions = sizes[kept] ** 2 / n, right[kept]
    share = ledoit_wolf(points) if shrinkage is None else shrinkage
    shrunk = (1 - share) * variances + share * variances.sum() / dimensions
    # Class means of centred features lie in the span of the features, so nothing is lost in these coordinates.
    means = _class_means(points, classes, count) @ directions.T
    between = (np.bincount(classes)[:, None] * np.square(means)).sum(0) / n
    return float((1 - share) * (between / shrunk).sum())


def ledoit_wolf(centred: Floats) -> float:
    """The share by which a covariance is best shrunk to a multiple of the identity.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004, lemma 3.4.

    Args:
        centred: features of mean zero, (n, d).
    """
    n, dimensions = centred.shape
    squares = np.square(centred).sum(1)
    # The squared Frobenius norm of the covariance, from the smaller of the two products.
    product = centred @ centred.T if n < dimensions else centred.T @ centred
    norm = float(np.square(product).sum()) / n**2
    spread = norm - (float(squares.sum()) / n) ** 2 / dimensions
    noise = (float(np.square(squares).sum()) / n - norm) / n
    return min(1.0, max(0.0, noise / spread)) if spread > 0 else 1.0


def normalised_ranks(values: ArrayLike) -> Floats:
    """Places from 0, the smallest value, to 1, the largest; equal values share the mean of theirs.

    What is not a number comes last. One value alone has place 1.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise InputError(f"got values of shape {scores.shape}, expected a vector", fix="Give one number for each skill")
    if len(scores) == 1:
        return np.ones(1)
    # Only the order counts, so "below everything" may stand for no number.
    order = np.where(np.isnan(scores), -np.inf, scores)
    order[np.isneginf(scores)] = np.finfo(np.float64).min
    _, inverse, counts = np.unique(order, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    ranks: Floats = (first + (counts - 1) / 2)[inverse] / (len(scores) - 1)
    return ranks


def mean_ranks(columns: Sequence[ArrayLike]) -> Floats:
    """Several scores of the same things in one: the mean of their normalised ranks, which is Borda's count."""
    if not columns:
        raise InputError("no score is given", fix="Give at least one")
    result: Floats = np.mean([normalised_ranks(column) for column in columns], axis=0)
    return result


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[Floats, Places, int]:
    """Features, classes as numbers from 0, and how many classes there are."""
    points, names = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if points.ndim != 2 or names.shape != points.shape[:1] or not points.size:
        raise InputError(
            f"got features of shape {points.shape} and labels of shape {names.shape}, expected one label for each row",
            fix="Give a label for each row",
        )
    known, classes = np.unique(names, return_inverse=True)
    return points, classes, len(known)


def _class_means(points: Floats, classes: Places, count: int) -> Floats:
    sums = np.zeros((count, points.shape[1]))
    np.add.at(sums, classes, points)
    means: Floats = sums / np.bincount(classes)[:, None]
    return means
