"""Whether a difference is more than chance: exact McNemar, corrections for many tests, what a run can detect at all.

Pure arithmetic on counts and p-values; `comparison` uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genepool.errors import InputError

ALPHA = 0.05
POWER = 0.8


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test (McNemar 1947, the binomial form): is a flip as likely one way as the other?

    Args:
        gained, lost: examples only the one model solves, and only the other. Those on which both agree say nothing.

    Returns:
        The p-value: twice the smaller tail of Binomial(gained + lost, 1/2), at most 1.
    """
    if gained < 0 or lost < 0:
        raise InputError(f"counts must be at least 0, got {min(gained, lost)}")
    flipped, fewer = gained + lost, min(gained, lost)
    if 2 * fewer >= flipped - 1:
        # The middle of the distribution: both tails together are everything.
        return 1.0
    # Logarithms of the binomial coefficients, each from the one before.
    places = np.arange(1, fewer + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((flipped - places + 1) / places))]) - flipped * math.log(2)
    return min(1.0, 2 * math.exp(logs.max()) * float(np.exp(logs - logs.max()).sum()))


def holm(ps: Sequence[float]) -> NDArray[np.float64]:
    """P-values adjusted so that the chance of even one false discovery among them stays below alpha (Holm 1979)."""
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return _back(adjusted, order)


def benjamini_hochberg(ps: Sequence[float]) -> NDArray[np.float64]:
    """P-values adjusted so that the share of false discoveries stays below alpha (Benjamini & Hochberg 1995)."""
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
    adjusted = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return _back(adjusted, order)


def _back(adjusted: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.float64]:
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result


def detectable_difference(n: int, disagreement: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that the exact McNemar test finds on n examples with probability `power`.

    The number of examples on which the models disagree is Binomial(n, psi), and given that number the gains are
    Binomial with share (psi + d) / (2 psi): the power is computed from both, not from a normal approximation, which
    promises more than the exact test keeps (0.80 where it has 0.77, at 100 examples).

    Args:
        n: examples both models answer.
        disagreement: psi, expected or seen, from 0 to 1. A fine-tune of the same base may flip a tenth, unrelated
            models a half.
        alpha: two-sided level of the test.
        power: chance of finding it.

    Returns:
        The difference of mean scores; never above `disagreement`, which it cannot pass. Where even a difference as
        large as the disagreement would be missed, infinity.
    """
    if n < 1:
        raise InputError(f"the number of examples must be at least 1, got {n}")
    if not 0 <= disagreement <= 1:
        raise InputError(f"the disagreement must be from 0 to 1, got {disagreement}")
    _check_shares(alpha, power)
    test = _ExactTest(n, disagreement, alpha)
    if disagreement == 0 or test.power(disagreement) < power:
        return math.inf
    low, high = 0.0, disagreement
    # The power grows with the difference: halve until both ends agree to a thousandth of the answer.
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if test.power(middle) >= power else (middle, high)
    return high


def examples_needed(difference: float, disagreement: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """The fewest examples with which the exact McNemar test finds a true difference with probability `power`.

    With a few examples more the power may be a little lower again: the test's level is never met exactly, and how far
    it is missed depends on the number.

    Args:
        difference: of mean scores, not zero.
        disagreement: the share of examples on which the models disagree; at least |difference|.
        alpha, power: as in `detectable_difference`.
    """
    size = abs(difference)
    if not 0 < size <= disagreement <= 1:
        raise InputError(
            f"a difference of {difference} with the disagreement must be from 0 to 1, got {disagreement}",
            fix="The models differ on at least as many examples as the difference of their means says",
        )
    _check_shares(alpha, power)

    def enough(n: int) -> bool:
        return _ExactTest(n, disagreement, alpha).power(size) >= power

    fewest, most = 0, 1
    while not enough(most):
        fewest, most = most, 2 * most
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if enough(middle) else (middle, most)
    # The power rises in jags a few examples wide: bisection ends at one of them, and an earlier one may do.
    return next((n for n in range(max(1, most - _JAG), most) if enough(n)), most)


# Examples below the end of a bisection that are tried one by one.
_JAG = 24


class _ExactTest:
    """The two-sided exact McNemar test on n examples, as far as its power goes.

    Args:
        n: examples both models answer.
        disagreement: the chance that they disagree on one.
        alpha: level of the test.
    """

    def __init__(self, n: int, disagreement: float, alpha: float) -> None:
        from scipy.special import bdtr, bdtrc

        spread = 8 * math.sqrt(n * disagreement * (1 - disagreement)) + 1
        low, high = max(0, math.floor(n * disagreement - spread)), min(n, math.ceil(n * disagreement + spread))
        # Numbers of examples on which the models disagree that are at all likely, and their chances.
        self._flips = np.arange(low, high + 1)
        self._chances = np.diff(bdtr(np.maximum(np.arange(low - 1, high + 1), 0.0), n, disagreement))
        if low == 0:
            self._chances[0] = (1 - disagreement) ** n
        self._disagreement = disagreement
        self._tails = bdtr, bdtrc
        # The most gains with which the test still rejects in favour of the losses, by bisection; -1 for none.
        below, above = np.full(len(self._flips), -1.0), np.floor(self._flips / 2)
        while (below < above).any():
            middle = np.ceil((below + above) / 2)
            rejects = 2 * bdtr(middle, self._flips, 0.5) <= alpha
            below, above = np.where(rejects, middle, below), np.where(rejects, above, middle - 1)
        self._fewer = below

    def power(self, difference: float) -> float:
        """The chance to reject at a true difference of mean scores."""
        below, above = self._tails
        share = min((self._disagreement + difference) / (2 * self._disagreement), 1.0)
        at_most = np.maximum(self._fewer, 0)
        lost = below(at_most, self._flips, share)
        won = above(self._flips - at_most - 1, self._flips, share)
        return float((self._chances * np.where(self._fewer >= 0, lost + won, 0.0)).sum())


def _check_shares(*shares: float) -> None:
    for share in shares:
        if not 0 < share < 1:
            raise InputError(f"the probability must lie between 0 and 1, got {share}")
