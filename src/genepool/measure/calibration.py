"""Calibration: does a model that is 80% sure get 80% right?

Confidence is a number from 0 to 1 beside every answer (`Outcome.detail["confidence"]`): the chosen option's share in
multiple choice, the likelihood of what was written elsewhere. Everything here is computed from these and the scores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool import seeding
from genepool.errors import InputError
from genepool.measure.intervals import CONFIDENCE, Interval, Scores, mean_interval, wilson

Binning = Literal["mass", "width"]
#: As most papers have it (Guo et al. 2017 take 15 for data sets of thousands).
BINS = 10
_DRAWS = 1000
# Likelihoods this close to 0 or 1 count as that much: one wrong answer must not make a loss infinite.
_EDGE = 1e-12


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence.

    Attributes:
        lo, hi: lowest and highest confidence in it.
        n: answers.
        confidence: their mean confidence.
        right: share that was right, with Wilson's interval.
    """

    lo: float
    hi: float
    n: int
    confidence: float
    right: Interval


@dataclass(frozen=True)
class Calibration:
    """How far confidence can be taken at its word.

    Attributes:
        n: answers.
        confidence, right: mean confidence, and share right with its interval.
        bins: in order of confidence.
        ece: expected calibration error, the mean distance between confidence and share right over the bins, with a 95%
            bootstrap interval.
        by_chance: mean ECE that a perfectly calibrated model with these confidences would show in so many answers.
            The estimate is biased upwards by about this much (Nixon et al. 2019).
        p: how often such a model would show as much as `ece` (Bröcker and Smith 2007); small means miscalibrated.
        brier: mean of (confidence - right)², with a bootstrap interval.
        reliability, resolution, uncertainty, within: brier = reliability - resolution + uncertainty + within (Murphy
            1973; `within` is what confidence differs inside the bins, Stephenson et al. 2008).
        log_loss: mean of -log of the probability given to what happened.
        temperature: dividing the log-odds of every confidence by it mends most: above 1 for the overconfident.
    """

    n: int
    confidence: float
    right: Interval
    bins: tuple[Bin, ...]
    ece: Interval
    by_chance: float
    p: float
    brier: Interval
    reliability: float
    resolution: float
    uncertainty: float
    within: float
    log_loss: float
    temperature: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = asdict(self)
        for name in ("right", "ece", "brier"):
            found[name] = getattr(self, name)._asdict()
        found["bins"] = [{**asdict(one), "right": one.right._asdict()} for one in self.bins]
        return found


def calibration(
    confidences: ArrayLike, right: ArrayLike, *, bins: int = BINS, binning: Binning = "mass", seed: int = 0
) -> Calibration:
    """Calibration of confidences.

    Args:
        confidences: from 0 to 1, shape (n,).
        right: whether each answer was right, 0 or 1, shape (n,).
        bins: at most so many.
        binning: "mass", bins of as many answers each; "width", bins as wide as each other, empty ones left out.
        seed: of the bootstrap and the simulation.

    Raises:
        InputError: there are no answers, shapes differ, a confidence is not from 0 to 1, or an answer is right by
            degree.
    """
    sure, hits = checked_confidences(confidences, right)
    if not np.isin(hits, (0.0, 1.0)).all():
        raise InputError("scores must be 0 or 1, got others", fix="Use a metric that is right or wrong")
    if bins < 1:
        raise InputError(f"bins must be at least 1, got {bins}", fix="Give 1 or more")
    owner = _owners(sure, bins, binning)
    error = _ece(sure, hits, owner)
    generator = seeding.numpy_generator(seed, "calibration")
    drawn = np.array([_resampled_ece(sure, hits, bins, binning, generator) for _ in range(_DRAWS)])
    chance = np.array([_ece(sure, (generator.random(len(sure)) < sure).astype(float), owner) for _ in range(_DRAWS)])
    tail = 100 * (1 - CONFIDENCE) / 2
    lo, hi = np.percentile(drawn, [tail, 100 - tail])
    squared = np.square(sure - hits)
    counts = np.bincount(owner).astype(float)
    means, rates = np.bincount(owner, sure) / counts, np.bincount(owner, hits) / counts
    base = float(hits.mean())
    shares = counts / len(sure)
    reliability = float((shares * np.square(means - rates)).sum())
    resolution = float((shares * np.square(rates - base)).sum())
    uncertainty = base * (1 - base)
    brier = mean_interval(squared, seed=seed)
    clipped = np.clip(sure, _EDGE, 1 - _EDGE)
    return Calibration(
        len(sure),
        float(sure.mean()),
        mean_interval(hits, seed=seed),
        tuple(_bin(sure[owner == place], hits[owner == place]) for place in range(len(counts))),
        # The bootstrap's errors are larger than the sample's own, so its lower end may lie above it.
        Interval(error, min(error, float(lo)), max(error, float(hi))),
        float(chance.mean()),
        float((1 + (chance >= error - _EDGE).sum()) / (1 + _DRAWS)),
        brier,
        reliability,
        resolution,
        uncertainty,
        brier.mean - (reliability - resolution + uncertainty),
        _log_loss(np.log(clipped / (1 - clipped)), hits, 1.0),
        _temperature(np.log(clipped / (1 - clipped)), hits),
    )


def checked_confidences(confidences: ArrayLike, scores: ArrayLike) -> tuple[Scores, Scores]:
    """Both as arrays of one length, confidences and scores from 0 to 1.

    Raises:
        InputError: they are not.
    """
    sure, values = np.asarray(confidences, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != values.shape or not len(sure):
        raise InputError(
            f"got confidences of shape {sure.shape}, expected {values.shape}", fix="Give one confidence for each answer"
        )
    for name, given in (("confidence", sure), ("score", values)):
        if not ((given >= 0) & (given <= 1)).all():
            raise InputError(f"every {name} must be from 0 to 1", fix="Leave that answer out")
    return sure, values


def _owners(sure: Scores, bins: int, binning: Binning) -> NDArray[np.int64]:
    """The bin of every answer, numbered from 0 without gaps; answers of equal confidence are never parted."""
    if binning == "width":
        places = np.minimum((sure * bins).astype(np.int64), bins - 1)
    else:
        order = np.sort(sure)
        starts = sorted({round(i * len(sure) / bins) for i in range(1, bins)} - {0, len(sure)})
        edges = np.unique(order[starts])
        places = np.searchsorted(edges, sure, side="right").astype(np.int64)
    found: NDArray[np.int64] = np.unique(places, return_inverse=True)[1].astype(np.int64)
    return found


def _ece(sure: Scores, hits: Scores, owner: NDArray[np.int64]) -> float:
    return float(np.abs(np.bincount(owner, sure - hits)).sum() / len(sure))


def _resampled_ece(sure: Scores, hits: Scores, bins: int, binning: Binning, generator: np.random.Generator) -> float:
    picks = generator.integers(0, len(sure), size=len(sure))
    return _ece(sure[picks], hits[picks], _owners(sure[picks], bins, binning))


def _bin(sure: Scores, hits: Scores) -> Bin:
    right = wilson(float(hits.sum()), len(hits))
    return Bin(float(sure.min()), float(sure.max()), len(sure), float(sure.mean()), right)


def _log_loss(odds: Scores, hits: Scores, temperature: float) -> float:
    signed = np.where(hits > 0, odds, -odds) / temperature
    return float(np.logaddexp(0.0, -signed).mean())


def _temperature(odds: Scores, hits: Scores) -> float:
    """The temperature from a hundredth to a hundred with the smallest log loss (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    limit = float(np.log(100))
    best = minimize_scalar(
        lambda power: _log_loss(odds, hits, float(np.exp(power))), bounds=(-limit, limit), method="bounded"
    )
    return float(np.exp(best.x))
