"""How sure a mean is: Wilson's interval for right-or-wrong scores, the bootstrap for all others, paired or not.

Every draw comes from a seed of its own, so the same table always gives the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genepool import seeding
from genepool.errors import InputError

Scores = NDArray[np.float64]

CONFIDENCE = 0.95
# Two-sided 95% quantile of the normal distribution.
_Z = 1.959963984540054
# Percentile ends from 10,000 draws are steady to about 3% of the interval's width.
RESAMPLES = 10_000
_PICKS_AT_ONCE = 1 << 20


class Interval(NamedTuple):
    """A mean and the ends of its 95% interval; NaN stands for what is not known.

    Attributes:
        mean: the mean; NaN when it was not measured.
        lo, hi: the ends; NaN when there is no interval.
    """

    mean: float
    lo: float = math.nan
    hi: float = math.nan

    @property
    def measured(self) -> bool:
        """Whether the mean is a number."""
        return math.isfinite(self.mean)

    @property
    def has_ends(self) -> bool:
        """Whether both ends are numbers."""
        return math.isfinite(self.lo) and math.isfinite(self.hi)


NOT_MEASURED = Interval(math.nan)


class Difference(NamedTuple):
    """How much better one model is than another on the same examples.

    Attributes:
        difference: mean of the paired differences; positive when the first is better.
        lo, hi: ends of its 95% interval.
        p: two-sided achieved significance level: how often the bootstrap falls on the other side of zero, doubled.
    """

    difference: float
    lo: float
    hi: float
    p: float

    @property
    def interval(self) -> Interval:
        """The difference as a mean with its interval, without p."""
        return Interval(self.difference, self.lo, self.hi)

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.lo > 0 or self.hi < 0


def wilson(successes: float, n: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); sensible at 0, at 1 and for few examples."""
    if n < 1:
        raise InputError("there are no scores", fix="Evaluate at least one example")
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def mean_interval(scores: Scores, *, seed: int = 0) -> Interval:
    """Mean and 95% interval of scores, shape (n,): Wilson's when all are 0 or 1, else a percentile bootstrap."""
    values = _checked(scores)
    if np.isin(values, (0.0, 1.0)).all():
        return wilson(float(values.sum()), len(values))
    return _percentiles(float(values.mean()), resampled_means(values, seed=seed))


def macro_interval(parts: Sequence[Scores], *, seed: int = 0) -> Interval:
    """Mean of several tasks' means with a 95% interval.

    Every task's own interval is recovered into the mean's: its arms on either side add up as squares (MOVER, Zou and
    Donner 2008), so a mean of tasks that are all right or all wrong is no surer than its parts.
    """
    if not parts:
        raise InputError("there are no tasks", fix="Evaluate at least one task")
    own = [mean_interval(part, seed=seed) for part in parts]
    if len(own) == 1:
        return own[0]
    mean = math.fsum(one.mean for one in own) / len(own)
    below = math.hypot(*(one.mean - one.lo for one in own)) / len(own)
    above = math.hypot(*(one.hi - one.mean for one in own)) / len(own)
    return Interval(mean, mean - below, mean + above)


def paired_bootstrap(first: Scores, second: Scores, *, seed: int = 0) -> Difference:
    """`first - second` over the same examples, shape (n,) each, by a paired percentile bootstrap."""
    return macro_paired_bootstrap([first], [second], seed=seed)


def macro_paired_bootstrap(first: Sequence[Scores], second: Sequence[Scores], *, seed: int = 0) -> Difference:
    """The difference of two models' mean over several tasks; examples are resampled in pairs within each task.

    Args:
        first, second: one array of scores per task; the i-th example of a task is the same for both.
    """
    if len(first) != len(second) or not first:
        raise InputError(f"got {len(second)} tasks, expected {len(first)}", fix="Compare models over the same tasks")
    moved = []
    for ours, theirs in zip(first, second, strict=True):
        if len(ours) != len(theirs):
            raise InputError(
                f"got {len(theirs)} examples, expected {len(ours)}", fix="Compare models over the same examples"
            )
        moved.append(_checked(ours) - _checked(theirs))
    # Drawn from either side, so that swapping the models turns the sign of everything and changes nothing else.
    ours = np.mean([resampled_means(part, seed=seed, place=i) for i, part in enumerate(moved)], axis=0)
    theirs = np.mean([resampled_means(-part, seed=seed, place=i) for i, part in enumerate(moved)], axis=0)
    draws = np.concatenate([ours, -theirs])
    mean, lo, hi = _percentiles(float(np.mean([part.mean() for part in moved])), draws)
    # One is added to both counts: with a finite number of draws no p-value is zero.
    below, above = (int((draws <= 0).sum()) + 1, int((draws >= 0).sum()) + 1)
    return Difference(mean, lo, hi, min(1.0, 2 * min(below, above) / (len(draws) + 1)))


def resampled_means(values: Scores, *, seed: int = 0, place: int = 0, draws: int = RESAMPLES) -> Scores:
    """Means of `draws` bootstrap samples of `values`, shape (draws,).

    Scores take few distinct values, so how often each is drawn is drawn instead of every example: the same
    distribution, at a cost that does not grow with the number of examples.
    """
    generator = seeding.numpy_generator(seed, "bootstrap", place)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) * 4 > len(values):
        # A few at a time: all picks of a large task at once would fill the memory.
        rows = max(1, _PICKS_AT_ONCE // len(values))
        counts_of = [min(rows, draws - start) for start in range(0, draws, rows)]
        parts = [values[generator.integers(0, len(values), size=(n, len(values)))].mean(axis=1) for n in counts_of]
        means: Scores = np.concatenate(parts)
        return means
    drawn = generator.multinomial(len(values), counts / len(values), size=draws)
    result: Scores = drawn @ distinct / len(values)
    return result


def _percentiles(mean: float, draws: Scores) -> Interval:
    tail = 100 * (1 - CONFIDENCE) / 2
    lo, hi = np.percentile(draws, [tail, 100 - tail])
    # Adding zero turns -0.0 into 0.0, which prints without a sign.
    return Interval(mean, float(lo) + 0.0, float(hi) + 0.0)


def _checked(scores: Scores) -> Scores:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise InputError("there are no scores", fix="Evaluate at least one example")
    if not np.isfinite(values).all():
        raise InputError("a score is not a number", fix="Check the metric of the task")
    return values
