"""Loops compiled for the processor by numba; they release the interpreter lock, so tensors are merged side by side.

Only the modules beside this file import it, and only when a loop is called: numba's import takes half a second.
Compiled code is kept in numba's cache, so each loop is compiled once after installation.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import event

Array = np.ndarray[Any, Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])


def _compiled(loop: Loop) -> Loop:
    ready: Loop = numba.njit(nogil=True, cache=True, error_model="numpy")(loop)
    return ready


def _compiled_sum(loop: Loop) -> Loop:
    """The same for a sum whose order is free, which lets the processor keep many side by side."""
    ready: Loop = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})(loop)
    return ready


def _import_without(module: str, absent: str) -> None:
    """Imports a module of numba as if another one that it looks for were not installed."""
    if absent in sys.modules:
        return
    sys.modules[absent] = None  # type: ignore[assignment]  # an import of it fails
    try:
        importlib.import_module(module)
    finally:
        del sys.modules[absent]


# SciPy's BLAS, which `numpy.correlate` in a loop would use, and cffi's parser of C: no loop here needs either, and they
# take a fifth of a second, and a fiftieth.
_import_without("numba.np.arraymath", "scipy.linalg.cython_blas")
_import_without("numba.core.typing.cffi_utils", "cffi")


class _FirstCall(event.Listener):  # type: ignore[misc]  # numba has no types
    """Says once in a process that a loop is compiled, which takes seconds; what the cache has is only loaded."""

    said = False

    def on_start(self, event: event.Event) -> None:
        from genepool import progress

        if not self.said:
            self.said = True
            progress.message("compiling loops for this processor, once after installation")

    def on_end(self, event: event.Event) -> None:
        return None


event.register("numba:compile", _FirstCall())

# Entries that are gone through at once.
_RUN = 1024
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
# Multipliers and key increments of Philox4x32 (Salmon et al. 2011, table 2).
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_UNIT = np.float32(2.0**-24)


@_compiled
def subtract(a: Array, b: Array, out: Array) -> bool:
    """`out = a - b` in float32, of the bits of float32 (uint32) or bfloat16 (uint16); whether all of it is finite."""
    odd = np.uint32(0)
    # A bfloat16 is the upper half of a float32, so the same shift serves both types.
    shift = np.uint32(32 - 8 * a.itemsize)
    for i in range(out.size):
        difference = np.float32(
            np.uint32(np.uint32(a[i]) << shift).view(np.float32) - np.uint32(np.uint32(b[i]) << shift).view(np.float32)
        )
        out[i] = difference
        odd |= np.uint32((difference.view(np.uint32) & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return bool(odd == 0)


@_compiled
def subtract_all(rows: Array, base: Array, out: Array) -> bool:
    """The same of `(k, n)` rows and one base, `(n,)`: `out[k] = rows[k] - base`."""
    odd = np.uint32(0)
    shift = np.uint32(32 - 8 * base.itemsize)
    buffer = np.empty(_RUN, np.float32)
    for begin in range(0, base.size, _RUN):
        size = min(_RUN, base.size - begin)
        below, stored = buffer[:size], base[begin : begin + size]
        for i in range(size):
            below[i] = np.uint32(np.uint32(stored[i]) << shift).view(np.float32)
        for k in range(rows.shape[0]):
            row, differences = rows[k, begin : begin + size], out[k, begin : begin + size]
            for i in range(size):
                differences[i] = np.uint32(np.uint32(row[i]) << shift).view(np.float32) - below[i]
            bits = differences.view(np.uint32)
            for i in range(size):
                odd |= np.uint32((bits[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return bool(odd == 0)


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
    for begin in range(0, bits.size, 16):
        part = bits[begin : min(begin + 16, bits.size)]
        # Most runs of sixteen hold none, and this look at one is wide.
        met = np.uint32(0)
        for i in range(part.size):
            met |= np.uint32(np.uint32((part[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(shift)) == wanted)
        if met:
            for i in range(part.size):
                b = part[i] & np.uint32(0x7FFFFFFF)
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
def drop(vector: Array, key: int, offset: int, density: float) -> None:
    """`vector = 0` where the stream `key` has no number below `density`; the vector begins at entry `offset` of it."""
    limit = np.float32(density)
    draws = np.empty(_RUN, np.float32)
    ahead = offset % 4
    place = 0
    # A run of draws at a time: they are used while they are in the nearest cache, and never kept.
    while place < vector.size:
        part = vector[place : min(place + _RUN - ahead, vector.size)]
        philox(key, (offset + place) // 4, draws[: (ahead + part.size + 3) // 4 * 4])
        for i in range(part.size):
            part[i] = part[i] if draws[ahead + i] < limit else np.float32(0)
        place += part.size
        ahead = 0


@_compiled
def _range(vector: Array, low: Array, high: Array) -> Any:
    """Bits of a vector, those of the least magnitude and how far the most is above: both limits in one comparison.

    The order of magnitudes is that of their bits, and what is below the least wraps around to far above the most.
    """
    least, most = low.view(np.uint32)[0], high.view(np.uint32)[0]
    return vector.view(np.uint32), least, np.uint32(most - least)


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
    none = np.float32(0)
    signs, divisor = np.empty(_RUN, np.float32), np.empty(_RUN, np.float32)
    elected = 0
    # In short runs, vector by vector: a run stays in the nearest cache, and loops without branches are made wide.
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        merged = out[begin : begin + size]
        signs[:] = none
        for k in range(models):
            vector, factor = vectors[k, begin : begin + size], votes[k]
            bits, least, span = _range(vector, low[k : k + 1], high[k : k + 1])
            for i in range(size):
                inside = np.uint32((bits[i] & _MAGNITUDE) - least) <= span
                signs[i] += vector[i] * factor if inside else none
        balance = np.int32(0)
        for i in range(size):
            vote = np.float32(signs[i] > none) - np.float32(signs[i] < none)
            merged[i] = vote
            signs[i] = vote if vote != none else np.float32(zero_sign)
        for i in range(size):
            balance = np.int32(balance + np.int32(merged[i]))
        elected += int(balance)
        merged[:] = none
        divisor[:] = none
        for k in range(models):
            vector, factor, weight = vectors[k, begin : begin + size], factors[k], weights[k]
            bits, least, span = _range(vector, low[k : k + 1], high[k : k + 1])
            for i in range(size):
                inside = np.uint32((bits[i] & _MAGNITUDE) - least) <= span
                weighted = vector[i] * factor if inside else none
                agrees = weighted * signs[i] > none
                merged[i] += weighted if agrees else none
                divisor[i] += weight if agrees else none
        if normalize:
            for i in range(size):
                merged[i] /= divisor[i] if divisor[i] != none else np.float32(1)
    return elected


@_compiled
def balance_of_votes(vectors: Array, votes: Array, low: Array, high: Array) -> int:
    """The sum of the elected signs that `elect` returns, without the sum of the vectors."""
    models, entries = vectors.shape
    none = np.float32(0)
    buffer = np.empty(_RUN, np.float32)
    elected = 0
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        signs = buffer[:size]
        signs[:] = none
        for k in range(models):
            vector, factor = vectors[k, begin : begin + size], votes[k]
            bits, least, span = _range(vector, low[k : k + 1], high[k : k + 1])
            for i in range(size):
                inside = np.uint32((bits[i] & _MAGNITUDE) - least) <= span
                signs[i] += vector[i] * factor if inside else none
        balance = np.int32(0)
        for i in range(size):
            balance = np.int32(balance + np.int32(signs[i] > none) - np.int32(signs[i] < none))
        elected += int(balance)
    return elected


@_compiled
def trimmed_sum(vectors: Array, factors: Array, low: Array, high: Array, out: Array) -> None:
    """The sum of `(k, n)` vectors times their factors over the entries whose magnitude is within `low` and `high`."""
    models, entries = vectors.shape
    none = np.float32(0)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        total = out[begin : begin + size]
        total[:] = none
        for k in range(models):
            vector, factor = vectors[k, begin : begin + size], factors[k]
            bits, least, span = _range(vector, low[k : k + 1], high[k : k + 1])
            for i in range(size):
                inside = np.uint32((bits[i] & _MAGNITUDE) - least) <= span
                total[i] += vector[i] * factor if inside else none


@_compiled_sum
def run_magnitude(vector: Array) -> Any:
    """The sum of the magnitudes of a run of entries, in float64 and in whatever order is fastest."""
    total = 0.0
    for i in range(vector.size):
        total += np.float64(abs(vector[i]))
    return total


@_compiled
def magnitude_sum(vector: Array, low: Array, high: Array) -> float:
    """The sum of the magnitudes within `low` and `high`, each of one entry; run by run, in float64."""
    bits, least, span = _range(vector, low, high)
    kept = np.empty(_RUN, np.float32)
    total = 0.0
    for begin in range(0, vector.size, _RUN):
        part, own = vector[begin : begin + _RUN], bits[begin : begin + _RUN]
        for i in range(part.size):
            kept[i] = part[i] if np.uint32((own[i] & _MAGNITUDE) - least) <= span else np.float32(0)
        total += run_magnitude(kept[: part.size])
    return total
