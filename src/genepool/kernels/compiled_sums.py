"""Weighted sums compiled for the processor: from stored bits to stored bits in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from genepool.kernels.compiled import Array, _compiled, _compiled_sum

# Entries that are gone through at once: what is summed stays in the nearest cache.
_RUN = 1024
# Bits without the sign: from here on a float32 is infinite or NaN, or rounds to a bfloat16 that is.
_MAGNITUDE, _TOO_LARGE, _TOO_LARGE_NARROW = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(0x7F7F8000)


@_compiled
def widen(bits: Array, into: Array) -> None:
    """Stored bits as float32; a bfloat16 is the upper half of one, so the same shift serves both types."""
    shift = np.uint32(32 - 8 * bits.itemsize)
    for i in range(bits.size):
        into[i] = np.uint32(np.uint32(bits[i]) << shift).view(np.float32)


@_compiled
def weighted_sum(  # noqa: C901 (a row of plain loops is what the compiler makes vectors of)
    rows: Array, base: Array, factors: Array, divisor: float, subtract: bool, out: Array
) -> bool:
    """`out = base + sum_k f_k (rows_k - base) / divisor`; `rows_k` alone unless `subtract`; no base when it is empty.

    Values are the bits of float32 (uint32) or of bfloat16 (uint16); arithmetic is in float32, vector by vector in the
    order given. `rows` is `(k, n)`, `base` `(n,)` or `(0,)` and of the same type, `out` `(n,)`.

    Returns:
        Whether every result is finite; one NaN or infinity among the inputs makes a result that is not.
    """
    models, entries = rows.shape
    narrow = out.itemsize == 2
    limit = _TOO_LARGE_NARROW if narrow else _TOO_LARGE
    share = np.float32(divisor)
    sums, vector, below = np.empty(_RUN, np.float32), np.empty(_RUN, np.float32), np.empty(_RUN, np.float32)
    odd = np.uint32(0)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        if base.size:
            widen(base[begin : begin + size], below)
        for k in range(models):
            widen(rows[k, begin : begin + size], vector)
            factor = factors[k]
            if subtract:
                for i in range(size):
                    vector[i] -= below[i]
            if k == 0:
                for i in range(size):
                    sums[i] = vector[i] * factor
            else:
                for i in range(size):
                    sums[i] += vector[i] * factor
        if share != np.float32(1):
            for i in range(size):
                sums[i] /= share
        if base.size:
            for i in range(size):
                sums[i] += below[i]
        bits, result = sums.view(np.uint32), out[begin : begin + size]
        for i in range(size):
            odd |= np.uint32((bits[i] & _MAGNITUDE) >= limit)
        if narrow:
            # To the nearest, halves to the even one.
            for i in range(size):
                even = np.uint32(bits[i] >> np.uint32(16)) & np.uint32(1)
                result[i] = np.uint32(bits[i] + np.uint32(0x7FFF) + even) >> np.uint32(16)
        else:
            for i in range(size):
                result[i] = bits[i]
    return bool(odd == 0)


@_compiled_sum
def _dot(a: Array, b: Array) -> Any:
    """The dot product of two short runs, in whatever order is fastest."""
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_compiled
def gram(rows: Array, base: Array, out: Array) -> None:
    """`out[i, j] += (rows_i - base) . (rows_j - base)`, or of the rows alone when the base is empty.

    Bits as for `weighted_sum`; `out` is `(k, k)` float64. Runs of entries are added up in float32, then in float64.
    """
    models, entries = rows.shape
    wide, below = np.empty((models, _RUN), np.float32), np.empty(_RUN, np.float32)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        if base.size:
            widen(base[begin : begin + size], below)
        for k in range(models):
            widen(rows[k, begin : begin + size], wide[k])
            if base.size:
                for i in range(size):
                    wide[k, i] -= below[i]
        for k in range(models):
            for other in range(k + 1):
                product = np.float64(_dot(wide[k, :size], wide[other, :size]))
                out[k, other] += product
                if other != k:
                    out[other, k] += product
