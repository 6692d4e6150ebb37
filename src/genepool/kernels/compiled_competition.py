"""Compiled loops of PCB from stored bits: scores are counted, or weigh the entries, while they are in the cache.

Values are those of the loops over float32 vectors in `compiled_vectors`, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genepool.kernels.compiled import _RUN, Array, _compiled
from genepool.kernels.compiled_brackets import _count, _keep, keys_of
from genepool.kernels.compiled_stored import _difference, _store
from genepool.kernels.compiled_sums import _TOO_LARGE, widen
from genepool.kernels.compiled_vectors import _LOG2_E, _scores, _weigh


@_compiled
def _differences(rows: Array, base: Array, begin: int, below: Array, vectors: Array, total: Array) -> Any:
    """A run of every difference, and their sum; whether all of it is finite, as 0 or 1."""
    widen(base[begin : begin + below.size], below)
    odd = np.uint32(0)
    total[:] = np.float32(0)
    for k in range(rows.shape[0]):
        vector = vectors[k, : below.size]
        odd |= np.uint32(_difference(rows[k, begin : begin + below.size], below, vector) >= _TOO_LARGE)
        for i in range(below.size):
            total[i] += vector[i]
    return odd


@_compiled
def count(
    rows: Array,
    base: Array,
    low: Array,
    scale: Array,
    high: Array,
    lows: Array,
    highs: Array,
    counts: Array,
    kept: Array,
    ends: Array,
) -> bool:
    """Counts the scores of every vector around its brackets; whether every difference is finite.

    Args:
        rows, base: `(k, n)` and `(n,)`, stored bits.
        low, scale, high: as for `compiled_vectors.scores`.
        lows, highs: `(k, brackets)` int32 keys.
        counts: `(k, brackets, 4)`, added to, as in `compiled_brackets.count_brackets`.
        kept: `(k, brackets, n)` int32, written into.
        ends: `(k, brackets)` int64: how many were kept of each.
    """
    models, entries = rows.shape
    vectors, keys = np.empty((models, _RUN), np.float32), np.empty(_RUN, np.int32)
    room = np.empty((3, _RUN), np.float32)
    steepness = np.float32(models * _LOG2_E)
    odd = np.uint32(0)
    ends[:] = 0
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        total, own = room[1, :size], room[2, :size]
        odd |= _differences(rows, base, begin, room[0, :size], vectors, total)
        for k in range(models):
            _scores(vectors[k, :size], total, low[k], scale[k], high[k], steepness, own)
            keys_of(own.view(np.int32), True, keys[:size])
            for j in range(lows.shape[1]):
                if _count(keys[:size], lows[k, j], highs[k, j], counts[k, j]) > 0:
                    ends[k, j] = _keep(keys[:size], lows[k, j], highs[k, j], kept[k, j], ends[k, j])
    return bool(odd == 0)


@_compiled
def merge(
    rows: Array,
    base: Array,
    low: Array,
    scale: Array,
    high: Array,
    lowest: Array,
    weight_scale: Array,
    factor: float,
    out: Array,
) -> bool:
    """The base plus `factor` times `competition.balance`, as it is stored; whether everything is finite."""
    models, entries = rows.shape
    vectors, room = np.empty((models, _RUN), np.float32), np.empty((5, _RUN), np.float32)
    steepness, times = np.float32(models * _LOG2_E), np.float32(factor)
    odd = np.uint32(0)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        below, total, own = room[0, :size], room[1, :size], room[2, :size]
        merged, weights = room[3, :size], room[4, :size]
        odd |= _differences(rows, base, begin, below, vectors, total)
        merged[:] = np.float32(0)
        weights[:] = np.float32(0)
        for k in range(models):
            vector = vectors[k, :size]
            _scores(vector, total, low[k], scale[k], high[k], steepness, own)
            _weigh(vector, own, low[k], high[k], lowest[k], weight_scale[k], merged, weights)
        for i in range(size):
            merged[i] = merged[i] / weights[i] if weights[i] > np.float32(0) else np.float32(0)
        for i in range(size):
            merged[i] = merged[i] * times + below[i]
        odd |= _store(merged, out[begin : begin + size])
    return bool(odd == 0)
