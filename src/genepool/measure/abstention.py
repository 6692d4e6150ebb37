"""Abstention: what a model gets right if it may leave out what it is least sure of.

Risk is one minus the mean score of the answers given, coverage their share. Computed from confidences and scores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from genepool.errors import InputError
from genepool.measure.calibration import checked_confidences
from genepool.measure.intervals import Interval, Scores, mean_interval

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
# Thresholds that a guarantee tries, from the most to the least careful.
_TRIED = 100


@dataclass(frozen=True)
class AtCoverage:
    """What is right among the answers it is surest of.

    Attributes:
        coverage: share of questions answered; the one asked for, or a little more where answers are equally sure.
        threshold: the lowest confidence among them.
        n: how many.
        right: their mean score with its 95% interval.
    """

    coverage: float
    threshold: float
    n: int
    right: Interval


@dataclass(frozen=True)
class Abstention:
    """How well confidence tells right answers from wrong ones.

    Attributes:
        n: questions.
        curve: (coverage, risk) for every number of answers given, the surest first; answers of equal confidence enter
            in random order, and the risk is the expected one.
        aurc: area under that curve, the mean risk over all coverages (Geifman and El-Yaniv 2017).
        excess: aurc less that of the best possible order of the same scores (Geifman et al. 2019).
        auroc: how often a right answer is surer than a wrong one, ties half; None where scores are by degree, all
            right or all wrong.
        at: scores at some coverages.
    """

    n: int
    curve: tuple[tuple[float, float], ...]
    aurc: float
    excess: float
    auroc: float | None
    at: tuple[AtCoverage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the curve."""
        found = asdict(self)
        del found["curve"]
        found["at"] = [{**asdict(one), "right": one.right._asdict()} for one in self.at]
        return found


@dataclass(frozen=True)
class Guarantee:
    """A threshold that keeps the risk down.

    Attributes:
        threshold: answer where the confidence is at least this.
        coverage: share of questions that are answered then.
        risk: one minus the mean score of those, as seen.
    """

    threshold: float
    coverage: float
    risk: float


def abstention(
    confidences: ArrayLike, scores: ArrayLike, *, coverages: tuple[float, ...] = COVERAGES, seed: int = 0
) -> Abstention:
    """The risk-coverage curve and what follows from it.

    Args:
        confidences: from 0 to 1, shape (n,).
        scores: from 0 to 1, shape (n,).
        coverages: above 0 and up to 1: where to tell the score.
        seed: of the bootstrap.

    Raises:
        InputError: there are no answers, shapes differ, or a number is out of range.
    """
    sure, values = checked_confidences(confidences, scores)
    if not all(0 < coverage <= 1 for coverage in coverages):
        raise InputError(f"coverages must be above 0 and at most 1, got {coverages}")
    risks = _risks(sure, values)
    ideal = _risks(values, values)
    counts = np.arange(1, len(sure) + 1) / len(sure)
    return Abstention(
        len(sure),
        tuple(zip(counts.tolist(), risks.tolist(), strict=True)),
        float(risks.mean()),
        float(max(risks.mean() - ideal.mean(), 0.0)),
        _auroc(sure, values),
        tuple(_at(sure, values, coverage, seed) for coverage in coverages),
    )


def guarantee(confidences: ArrayLike, right: ArrayLike, *, risk: float = 0.1, delta: float = 0.05) -> Guarantee | None:
    """The lowest threshold whose answers are wrong at most so often, except with probability `delta`.

    Thresholds are tested in a fixed order, the most careful first, each at the full level, until one fails: fixed
    sequence testing keeps the whole at `delta` (Angelopoulos et al. 2021, "Learn then Test"). Each test is the exact
    binomial one, of the answers above the threshold. The guarantee is for questions like those measured.

    Args:
        confidences: from 0 to 1, shape (n,).
        right: 0 or 1, shape (n,).
        risk: the share of wrong answers that is allowed.
        delta: how likely, at most, the threshold allows more.

    Returns:
        None where no threshold can be vouched for.

    Raises:
        InputError: as `abstention`; or answers are right by degree.
    """
    from scipy.stats import binom

    sure, hits = checked_confidences(confidences, right)
    if not np.isin(hits, (0.0, 1.0)).all():
        raise InputError("scores must be 0 or 1, got others", fix="Use a metric that is right or wrong")
    if not (0 < risk < 1 and 0 < delta < 1):
        raise InputError(f"risk and delta must lie between 0 and 1, got {risk} and {delta}")
    # Fewer answers than this could not pass without a single mistake; how many there are says nothing of mistakes.
    fewest = int(np.ceil(np.log(delta) / np.log1p(-risk)))
    order = np.sort(sure)[::-1]
    if fewest > len(order):
        return None
    places = np.unique(np.linspace(fewest, len(order), _TRIED).round().astype(int)) - 1
    found: Guarantee | None = None
    for threshold in dict.fromkeys(order[places].tolist()):
        given = sure >= threshold
        wrong = int((1 - hits[given]).sum())
        if binom.cdf(wrong, int(given.sum()), risk) > delta:
            break
        found = Guarantee(threshold, float(given.mean()), float(wrong / given.sum()))
    return found


def _risks(sure: Scores, values: Scores) -> Scores:
    """Expected risk of the k surest answers, for k from 1 to n, shape (n,)."""
    _, place, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    of_group = np.bincount(place, values) / counts
    summed = np.cumsum(np.repeat(of_group, counts))
    found: Scores = 1 - summed / np.arange(1, len(sure) + 1)
    return found


def _auroc(sure: Scores, values: Scores) -> float | None:
    from scipy.stats import rankdata

    hits = values == 1
    if not np.isin(values, (0.0, 1.0)).all() or hits.all() or not hits.any():
        return None
    right, wrong = int(hits.sum()), int((~hits).sum())
    # Mann and Whitney's U over the number of pairs.
    return float((rankdata(sure)[hits].sum() - right * (right + 1) / 2) / (right * wrong))


def _at(sure: Scores, values: Scores, coverage: float, seed: int) -> AtCoverage:
    count = int(np.ceil(coverage * len(sure) - 1e-9))
    threshold = float(np.sort(sure)[::-1][count - 1])
    given = sure >= threshold
    return AtCoverage(float(given.mean()), threshold, int(given.sum()), mean_interval(values[given], seed=seed))
