"""Loops compiled for the processor by numba; they release the interpreter lock, so tensors are merged side by side.

Only the modules beside this file import it, and only when a loop is called: numba's import takes half a second.
Compiled code is kept in numba's cache, so each loop is compiled once after installation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Array = np.ndarray[Any, Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])


def _compiled(loop: Loop) -> Loop:
    ready: Loop = numba.njit(nogil=True, cache=True, error_model="numpy")(loop)
    return ready


_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
# Multipliers and key increments of Philox4x32 (Salmon et al. 2011, table 2).
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_UNIT = np.float32(2.0**-24)


@_compiled
def count_bits(bits: Array, shift: int, counts: Array) -> None:
    """`counts[b >> shift] += 1` for the magnitude bits b of every float32."""
    for i in range(bits.size):
        counts[(bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(shift)] += 1


@_compiled
def count_low_bits(bits: Array, shift: int, bucket: int, counts: Array) -> None:
    """`counts[low bits] += 1` for those whose bits above `shift` are `bucket`."""
    mask = np.uint32((1 << shift) - 1)
    wanted = np.uint32(bucket)
    for i in range(bits.size):
        b = bits[i] & np.uint32(0x7FFFFFFF)
        if b >> np.uint32(shift) == wanted:
            counts[b & mask] += 1


@_compiled
def philox(key: int, first: int, out: Array) -> None:
    """Uniform draws in [0, 1) of Philox4x32-10, four for each counter from `first` on; `out.size` is `4 n`."""
    key0, key1 = np.uint64(key) & _MASK, np.uint64(key) >> _HALF
    for quad in range(out.size // 4):
        counter = np.uint64(first) + np.uint64(quad)
        c0, c1, c2, c3 = counter & _MASK, counter >> _HALF, np.uint64(0), np.uint64(0)
        k0, k1 = key0, key1
        for _ in range(10):
            p0, p1 = c0 * _M0, c2 * _M1
            c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _MASK, (p0 >> _HALF) ^ c3 ^ k1, p0 & _MASK
            k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
        out[4 * quad] = np.float32(numba.int32(c0 >> np.uint64(8))) * _UNIT
        out[4 * quad + 1] = np.float32(numba.int32(c1 >> np.uint64(8))) * _UNIT
        out[4 * quad + 2] = np.float32(numba.int32(c2 >> np.uint64(8))) * _UNIT
        out[4 * quad + 3] = np.float32(numba.int32(c3 >> np.uint64(8))) * _UNIT


@_compiled
def elect(
    vectors: Array,
    votes: Array,
    factors: Array,
    weights: Array,
    low: Array,
    high: Array,
    zero_sign: float,
    normalize: bool,
    out: Array,
) -> int:
    """Sign election and disjoint sum of TIES over `(k, n)` vectors; returns the sum of the elected signs.

    An entry takes part when its magnitude is within its model's `low` and `high`; it votes times its vote and adds up
    times its factor.
    """
    models, entries = vectors.shape
    balance = 0
    for i in range(entries):
        total = np.float32(0)
        for k in range(models):
            if low[k] <= abs(vectors[k, i]) <= high[k]:
                total += vectors[k, i] * votes[k]
        sign = np.float32(zero_sign)
        if total > 0:
            sign = np.float32(1)
            balance += 1
        elif total < 0:
            sign = np.float32(-1)
            balance -= 1
        merged, divisor = np.float32(0), np.float32(0)
        for k in range(models):
            if low[k] <= abs(vectors[k, i]) <= high[k]:
                weighted = vectors[k, i] * factors[k]
                if weighted * sign > 0:
                    merged += weighted
                    divisor += weights[k]
        if normalize and divisor != 0:
            merged /= divisor
        out[i] = merged
    return balance


@_compiled
def trimmed_sum(vectors: Array, factors: Array, low: Array, high: Array, out: Array) -> None:
    """The sum of `(k, n)` vectors times their factors over the entries whose magnitude is within `low` and `high`."""
    models, entries = vectors.shape
    for i in range(entries):
        total = np.float32(0)
        for k in range(models):
            if low[k] <= abs(vectors[k, i]) <= high[k]:
                total += vectors[k, i] * factors[k]
        out[i] = total


@_compiled
def overlap_counts(vectors: Array, epsilon: float, counts: Array) -> None:
    """Adds to `counts[k]` how many entries of vector k are beyond `epsilon` in no other vector, and in another too."""
    models, entries = vectors.shape
    limit = np.float32(epsilon)
    for i in range(entries):
        active = 0
        for k in range(models):
            if abs(vectors[k, i]) > limit:
                active += 1
        for k in range(models):
            if abs(vectors[k, i]) > limit:
                counts[k, min(active, 2) - 1] += 1


@_compiled
def overlap_mean(vectors: Array, epsilon: float, factors: Array, out: Array) -> None:
    """Per entry the mean of the vectors beyond `epsilon`; one that is alone counts times its factor."""
    models, entries = vectors.shape
    limit = np.float32(epsilon)
    for i in range(entries):
        active, total, alone = 0, np.float32(0), np.float32(0)
        for k in range(models):
            if abs(vectors[k, i]) > limit:
                active += 1
                total += vectors[k, i]
                alone += vectors[k, i] * factors[k]
        if active == 1:
            out[i] = alone
        elif active > 1:
            out[i] = total / np.float32(active)
        else:
            out[i] = 0


# Bits sorted by in one step of the radix sort; three steps order the 31 bits of a magnitude.
_DIGIT = 11
_DIGIT_MASK = np.uint64((1 << _DIGIT) - 1)


@_compiled
def row_ranks(rows: Array, ranks: Array) -> None:
    """Ranks of the magnitudes within each row over `columns - 1`; equal ones share their mean rank.

    A radix sort of (magnitude bits, place) pairs packed into 64 bits: no row takes longer than another.
    """
    lines, columns = rows.shape
    bits = rows.view(np.uint32)
    pairs, spare = np.empty(columns, np.uint64), np.empty(columns, np.uint64)
    starts = np.empty((3, (1 << _DIGIT) + 1), np.int32)
    last = np.float32(max(columns - 1, 1))
    for line in range(lines):
        starts[:] = 0
        for i in range(columns):
            key = np.uint64(bits[line, i] & np.uint32(0x7FFFFFFF))
            pairs[i] = (key << _HALF) | np.uint64(i)
            for step in range(3):
                starts[step, ((key >> np.uint64(step * _DIGIT)) & _DIGIT_MASK) + np.uint64(1)] += 1
        for step in range(3):
            for digit in range(1 << _DIGIT):
                starts[step, digit + 1] += starts[step, digit]
            shift = np.uint64(32 + step * _DIGIT)
            for i in range(columns):
                digit_of = (pairs[i] >> shift) & _DIGIT_MASK
                spare[starts[step, digit_of]] = pairs[i]
                starts[step, digit_of] += 1
            pairs, spare = spare, pairs
        first = 0
        while first < columns:
            end = first + 1
            while end < columns and pairs[end] >> _HALF == pairs[first] >> _HALF:
                end += 1
            rank = np.float32(0.5) * np.float32(first + end - 1) / last if columns > 1 else np.float32(0.5)
            for i in range(first, end):
                ranks[line, pairs[i] & _MASK] = rank
            first = end
