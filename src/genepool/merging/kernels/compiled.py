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
    vectors: Array, factors: Array, weights: Array, low: Array, zero_sign: float, normalize: bool, out: Array
) -> int:
    """Sign election and disjoint sum of TIES over `(k, n)` vectors; returns the sum of the elected signs.

    An entry takes part when its magnitude is at least its model's `low`; it votes and adds up times its factor.
    """
    models, entries = vectors.shape
    votes = 0
    for i in range(entries):
        total = np.float32(0)
        for k in range(models):
            if abs(vectors[k, i]) >= low[k]:
                total += vectors[k, i] * factors[k]
        sign = np.float32(zero_sign)
        if total > 0:
            sign = np.float32(1)
            votes += 1
        elif total < 0:
            sign = np.float32(-1)
            votes -= 1
        merged, divisor = np.float32(0), np.float32(0)
        for k in range(models):
            if abs(vectors[k, i]) >= low[k]:
                weighted = vectors[k, i] * factors[k]
                if weighted * sign > 0:
                    merged += weighted
                    divisor += weights[k]
        if normalize and divisor != 0:
            merged /= divisor
        out[i] = merged
    return votes
