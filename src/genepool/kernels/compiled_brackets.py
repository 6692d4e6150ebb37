"""Compiled loops over one vector and a bracket of bits: how many entries lie on each side, and which lie within."""

from __future__ import annotations

from typing import Any

import numpy as np

from genepool.kernels.compiled import _MAGNITUDE, _RUN, Array, _compiled

# Entries of a run that are looked at together: hardly any such group holds an entry within a bracket.
_GROUP = 16
_SIGN, _ALL = np.uint32(0x80000000), np.uint32(0xFFFFFFFF)


@_compiled
def keys_of(bits: Array, signed: bool, keys: Array) -> None:
    """Whole numbers in the order of the values: of float32 by value when `signed`, else by magnitude."""
    if signed:
        for i in range(bits.size):
            negative = np.uint32(bits[i] >> np.uint32(31))
            keys[i] = bits[i] ^ np.uint32(np.uint32(_ALL * negative) | _SIGN)
    else:
        for i in range(bits.size):
            keys[i] = bits[i] & _MAGNITUDE


@_compiled
def _count(keys: Array, low: np.uint32, high: np.uint32, counts: Array) -> Any:
    """Counts the keys of a run on each side of a bracket; returns how many lie strictly within."""
    above_high, from_high = np.uint32(0), np.uint32(0)
    above_low, from_low = np.uint32(0), np.uint32(0)
    for i in range(keys.size):
        above_high += np.uint32(keys[i] > high)
        from_high += np.uint32(keys[i] >= high)
        above_low += np.uint32(keys[i] > low)
        from_low += np.uint32(keys[i] >= low)
    counts[0] += np.int64(above_high)
    counts[1] += np.int64(from_high)
    counts[2] += np.int64(above_low)
    counts[3] += np.int64(from_low)
    return np.int64(above_low) - np.int64(from_high)


@_compiled
def _keep(keys: Array, low: np.uint32, high: np.uint32, kept: Array, place: int) -> int:
    """Writes the keys strictly within a bracket to `kept` from `place` on; returns where they end."""
    span = np.uint32(high - low - np.uint32(1))
    first = np.uint32(low + np.uint32(1))
    for begin in range(0, keys.size, _GROUP):
        part = keys[begin : min(begin + _GROUP, keys.size)]
        met = np.uint32(0)
        for i in range(part.size):
            met |= np.uint32(np.uint32(part[i] - first) < span)
        if met:
            for i in range(part.size):
                if np.uint32(part[i] - first) < span:
                    kept[place] = part[i]
                    place += 1
    return place


@_compiled
def count_brackets(
    bits: Array, signed: bool, lows: Array, highs: Array, counts: Array, kept: Array, ends: Array
) -> None:
    """Counts a vector's keys around brackets, and keeps those strictly within.

    Args:
        bits: `(n,)` of float32.
        signed: as for `keys_of`.
        lows, highs: `(brackets,)` uint32 keys, `low <= high`.
        counts: `(brackets, 4)` int64, added to: keys above the high end, from it on, above the low end, from it on.
        kept: `(brackets, n)` uint32, written into.
        ends: `(brackets,)` int64: how many were kept of each.
    """
    buffer = np.empty(_RUN, np.uint32)
    ends[:] = 0
    for begin in range(0, bits.size, _RUN):
        keys = buffer[: min(_RUN, bits.size - begin)]
        keys_of(bits[begin : begin + keys.size], signed, keys)
        for j in range(lows.size):
            if _count(keys, lows[j], highs[j], counts[j]) > 0:
                ends[j] = _keep(keys, lows[j], highs[j], kept[j], ends[j])
