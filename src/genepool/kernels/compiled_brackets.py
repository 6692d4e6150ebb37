"""Compiled loops over one vector and a bracket of bits: how many entries lie on each side, and which lie within."""

from __future__ import annotations

from typing import Any

import numpy as np

from genepool.kernels.compiled import _RUN, Array, _compiled

# Entries of a run that are looked at together: few such groups hold an entry within a bracket.
_GROUP = 16
_ONE = np.int32(1 << 10)
_SIZE = np.int32(0x7FFFFFFF)


@_compiled
def keys_of(bits: Array, signed: bool, keys: Array) -> None:
    """Whole numbers in the order of the values: of float32 by value when `signed`, else by magnitude.

    All are int32: the processor compares signed numbers faster than others.
    """
    if signed:
        for i in range(bits.size):
            # Bits of negative numbers grow with their magnitudes.
            keys[i] = bits[i] ^ np.int32((bits[i] >> np.int32(31)) & _SIZE)
    else:
        for i in range(bits.size):
            keys[i] = bits[i] & _SIZE


@_compiled
def _count(keys: Array, low: np.int32, high: np.int32, counts: Array) -> Any:
    """Counts the keys of a run on each side of a bracket; returns how many lie strictly within."""
    above_high, from_high, above_low, from_low = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
    # The only comparison that is one instruction.
    under_high, under_low = np.int32(high - np.int32(1)), np.int32(low - np.int32(1))
    # Cast at every step: a sum of two int32 is an int64 otherwise, and takes twice as long.
    for i in range(keys.size):
        above_high = np.int32(above_high + np.int32(keys[i] > high))
        from_high = np.int32(from_high + np.int32(keys[i] > under_high))
        above_low = np.int32(above_low + np.int32(keys[i] > low))
        from_low = np.int32(from_low + np.int32(keys[i] > under_low))
    counts[0] += np.int64(above_high)
    counts[1] += np.int64(from_high)
    counts[2] += np.int64(above_low)
    counts[3] += np.int64(from_low)
    return np.int64(above_low) - np.int64(from_high)


@_compiled
def _keep(keys: Array, low: np.int32, high: np.int32, kept: Array, place: int) -> int:
    """Writes the keys strictly within a bracket to `kept` from `place` on; returns where they end."""
    span, first = np.uint32(high - low - 1), np.uint32(low + 1)
    unsigned = keys.view(np.uint32)
    whole = keys.size // _GROUP * _GROUP
    for begin in range(0, whole, _GROUP):
        part = unsigned[begin : begin + _GROUP]
        met = np.uint32(0)
        for i in range(_GROUP):
            met |= np.uint32(np.uint32(part[i] - first) < span)
        if met:
            for i in range(_GROUP):
                if np.uint32(part[i] - first) < span:
                    kept[place] = keys[begin + i]
                    place += 1
    for i in range(whole, keys.size):
        if np.uint32(unsigned[i] - first) < span:
            kept[place] = keys[i]
            place += 1
    return place


@_compiled
def count_brackets(
    bits: Array, signed: bool, lows: Array, highs: Array, counts: Array, kept: Array, ends: Array
) -> None:
    """Counts a vector's keys around brackets, and keeps those strictly within.

    Args:
        bits: `(n,)` of float32, int32.
        signed: as for `keys_of`.
        lows, highs: `(brackets,)` int32 keys, `low <= high`, neither the least that there is.
        counts: `(brackets, 4)` int64, added to: keys above the high end, from it on, above the low end, from it on.
        kept: `(brackets, n)` int32, written into.
        ends: `(brackets,)` int64: how many were kept of each.
    """
    buffer = np.empty(_RUN, np.int32)
    ends[:] = 0
    for begin in range(0, bits.size, _RUN):
        keys = buffer[: min(_RUN, bits.size - begin)]
        keys_of(bits[begin : begin + keys.size], signed, keys)
        for j in range(lows.size):
            if _count(keys, lows[j], highs[j], counts[j]) > 0:
                ends[j] = _keep(keys, lows[j], highs[j], kept[j], ends[j])
