"""Loops for what chooses entries: ranks within rows, and where task vectors overlap; as `compiled.py`, from which it is
called in the same way.
"""

from __future__ import annotations

import numpy as np

from genepool.merging.kernels.compiled import Array, _compiled

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


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
