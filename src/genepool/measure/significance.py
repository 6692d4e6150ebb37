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
        raise InputError(f"{min(gained, lost)} examples flipped", fix="Give counts")
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
    """The smallest true difference that a paired comparison of n examples finds with probability `power`.

    For right-or-wrong answers the paired difference has variance psi - d^2, psi being the share of examples on which
    the models disagree (Connor 1987): d solves d^2 n = (z_alpha sqrt(psi) + z_power sqrt(psi - d^2))^2.

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
        raise InputError(f"{n} examples", fix="Ask at least one")
    if not 0 <= disagreement <= 1:
        raise InputError(f"a disagreement of {disagreement}", fix="Give a share from 0 to 1")
    level, reach = _quantile(1 - alpha / 2), _quantile(power)
    # With d = sqrt(psi) sin(angle) the equation is sqrt(n) sin = level + reach cos: one phase-shifted sine.
    side = math.hypot(math.sqrt(n), reach)
    if level >= side:
        return math.inf
    angle = math.asin(level / side) + math.atan2(reach, math.sqrt(n))
    found = math.sqrt(disagreement) * math.sin(min(angle, math.pi / 2))
    return found if 0 < found <= disagreement else math.inf


def examples_needed(difference: float, disagreement: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """How many examples a paired comparison needs to find a true difference with probability `power`.

    Args:
        difference: of mean scores, not zero.
        disagreement: the share of examples on which the models disagree; at least |difference|.
        alpha, power: as in `detectable_difference`.
    """
    size = abs(difference)
    if not 0 < size <= disagreement <= 1:
        raise InputError(
            f"a difference of {difference} with a disagreement of {disagreement}",
            fix="The models differ on at least as many examples as the difference of their means says",
        )
    level, reach = _quantile(1 - alpha / 2), _quantile(power)
    root = level * math.sqrt(disagreement) + reach * math.sqrt(disagreement - size**2)
    return math.ceil((root / size) ** 2)


def _quantile(share: float) -> float:
    from statistics import NormalDist

    if not 0 < share < 1:
        raise InputError(f"a probability of {share}", fix="Give one between 0 and 1")
    return NormalDist().inv_cdf(share)
