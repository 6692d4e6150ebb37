"""Compiled loops from stored bits: task vectors are formed, made sparse, and counted or merged, all in one go.

A run of entries stays in the nearest cache from the first difference to the last rounding, and nothing wider than a run
is ever written. Values are those of the loops in `compiled` and its neighbours, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genepool.kernels.compiled import _MAGNITUDE, _RUN, Array, _compiled, philox, run_magnitude
from genepool.kernels.compiled_brackets import _count, _keep, keys_of
from genepool.kernels.compiled_sums import _TOO_LARGE, _TOO_LARGE_NARROW, widen

_NOTHING = np.float32(0)


@_compiled
def _difference(row: Array, below: Array, out: Array) -> Any:
    """`out = row - below`, of stored bits and float32; returns the bits of the largest magnitude."""
    shift = np.uint32(32 - 8 * row.itemsize)
    for i in range(out.size):
        out[i] = np.uint32(np.uint32(row[i]) << shift).view(np.float32) - below[i]
    bits = out.view(np.int32)
    most = np.int32(0)
    for i in range(bits.size):
        most = max(most, np.int32(bits[i] & np.int32(0x7FFFFFFF)))
    return np.uint32(most)


@_compiled
def _drop(vector: Array, key: int, place: int, chance: np.float32, draws: Array) -> None:
    """`vector = 0` where number `place` and on of a stream are not below `chance`; `draws` is room for a run."""
    ahead = place % 4
    philox(key, place // 4, draws[: (ahead + vector.size + 3) // 4 * 4])
    for i in range(vector.size):
        vector[i] = vector[i] if draws[ahead + i] < chance else _NOTHING


@_compiled
def _trim(vector: Array, least: np.uint32, span: np.uint32) -> None:
    """`vector = 0` where the bits of the magnitude are not from `least` on and at most `span` above."""
    bits = vector.view(np.uint32)
    # In the order of bits, which is that of magnitudes; what is below the least wraps around to far above the most.
    for i in range(bits.size):
        inside = np.uint32((bits[i] & _MAGNITUDE) - least) <= span
        bits[i] = bits[i] if inside else np.uint32(0)


@_compiled
def _elect(
    vectors: Array, factors: Array, weights: Array, zero_sign: Any, signs: Array, divisor: Array, merged: Array
) -> None:
    """Sign election of a run of trimmed vectors: the sum of what agrees, and the sum of its weights."""
    signs[:] = _NOTHING
    for k in range(factors.size):
        vector, factor = vectors[k, : signs.size], factors[k]
        for i in range(signs.size):
            signs[i] += vector[i] * factor
    for i in range(signs.size):
        vote = np.float32(signs[i] > _NOTHING) - np.float32(signs[i] < _NOTHING)
        signs[i] = vote if vote != _NOTHING else zero_sign
    merged[:] = _NOTHING
    divisor[:] = _NOTHING
    for k in range(factors.size):
        vector, factor, weight = vectors[k, : signs.size], factors[k], weights[k]
        for i in range(signs.size):
            weighted = vector[i] * factor
            agrees = weighted * signs[i] > _NOTHING
            merged[i] += weighted if agrees else _NOTHING
            divisor[i] += weight if agrees else _NOTHING


@_compiled
def _store(values: Array, out: Array) -> Any:
    """Rounds a run of float32 to what is stored; whether something is too large for it."""
    bits = values.view(np.uint32)
    limit = _TOO_LARGE_NARROW if out.itemsize == 2 else _TOO_LARGE
    odd = np.uint32(0)
    for i in range(bits.size):
        odd |= np.uint32((bits[i] & _MAGNITUDE) >= limit)
    if out.itemsize == 2:
        # To the nearest, halves to the even one.
        for i in range(bits.size):
            even = np.uint32(bits[i] >> np.uint32(16)) & np.uint32(1)
            out[i] = np.uint32(bits[i] + np.uint32(0x7FFF) + even) >> np.uint32(16)
    else:
        for i in range(bits.size):
            out[i] = bits[i]
    return odd


@_compiled
def _keep_marked(vector: Array, marks: Array, place: int) -> None:
    """`vector = 0` where bit `place` and on are 0; the first bit of a byte is its highest."""
    bits = vector.view(np.uint32)
    if place % 8 == 0:
        own = marks[place // 8 :]
        for j in range(bits.size // 8):
            byte = np.uint32(own[j])
            for i in range(8):
                bits[8 * j + i] &= np.uint32(0) - np.uint32((byte >> np.uint32(7 - i)) & np.uint32(1))
        first = bits.size // 8 * 8
    else:
        first = 0
    for i in range(first, bits.size):
        byte = np.uint32(marks[(place + i) // 8])
        bits[i] &= np.uint32(0) - np.uint32((byte >> np.uint32(7 - (place + i) % 8)) & np.uint32(1))


@_compiled
def _prepare(
    rows: Array,
    below: Array,
    chances: Array,
    keys: Array,
    marks: Array,
    place: int,
    mark: int,
    low: Array,
    high: Array,
    begin: int,
    vectors: Array,
    draws: Array,
) -> Any:
    """A run of every task vector, dropped and trimmed; whether all of it is finite, as 0 or 1."""
    odd = np.uint32(0)
    for k in range(rows.shape[0]):
        vector = vectors[k, : below.size]
        odd |= np.uint32(_difference(rows[k, begin : begin + below.size], below, vector) >= _TOO_LARGE)
        if chances[k] < np.float32(1):
            _drop(vector, keys[k], place + begin, chances[k], draws)
        if marks.shape[1]:
            _keep_marked(vector, marks[k], mark + begin)
        if low[k] > _NOTHING or high[k] < np.float32(np.inf):
            least = low.view(np.uint32)[k]
            _trim(vector, least, np.uint32(high.view(np.uint32)[k] - least))
    return odd


@_compiled
def merge(
    rows: Array,
    base: Array,
    chances: Array,
    keys: Array,
    marks: Array,
    place: int,
    mark: int,
    low: Array,
    high: Array,
    factors: Array,
    weights: Array,
    elects: bool,
    zero_sign: float,
    normalize: bool,
    divisor: float,
    scale: float,
    out: Array,
) -> bool:
    """`stored.StoredVectors.merge`; see there. Whether everything is finite."""
    models, entries = rows.shape
    vectors, draws = np.empty((models, _RUN), np.float32), np.empty(_RUN + 8, np.float32)
    room = np.empty((4, _RUN), np.float32)
    sign, share, factor = np.float32(zero_sign), np.float32(divisor), np.float32(scale)
    odd = np.uint32(0)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        below, signs, weight, merged = room[0, :size], room[1, :size], room[2, :size], room[3, :size]
        widen(base[begin : begin + size], below)
        odd |= _prepare(rows, below, chances, keys, marks, place, mark, low, high, begin, vectors, draws)
        if elects:
            _elect(vectors, factors, weights, sign, signs, weight, merged)
            if normalize:
                for i in range(size):
                    merged[i] /= weight[i] if weight[i] != _NOTHING else np.float32(1)
        else:
            merged[:] = _NOTHING
            for k in range(models):
                vector, own = vectors[k, :size], factors[k]
                for i in range(size):
                    merged[i] += vector[i] * own
            if share != np.float32(1):
                for i in range(size):
                    merged[i] /= share
        for i in range(size):
            merged[i] = merged[i] * factor + below[i]
        odd |= _store(merged, out[begin : begin + size])
    return bool(odd == 0)


@_compiled
def balance_of_votes(
    rows: Array,
    base: Array,
    chances: Array,
    keys: Array,
    marks: Array,
    place: int,
    mark: int,
    low: Array,
    high: Array,
    factors: Array,
) -> Any:
    """The sum of the elected signs, and whether every difference is finite."""
    models, entries = rows.shape
    vectors, draws = np.empty((models, _RUN), np.float32), np.empty(_RUN + 8, np.float32)
    room = np.empty((2, _RUN), np.float32)
    odd, elected = np.uint32(0), np.int64(0)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        below, signs = room[0, :size], room[1, :size]
        widen(base[begin : begin + size], below)
        odd |= _prepare(rows, below, chances, keys, marks, place, mark, low, high, begin, vectors, draws)
        signs[:] = _NOTHING
        for k in range(models):
            vector, factor = vectors[k, :size], factors[k]
            for i in range(size):
                signs[i] += vector[i] * factor
        balance = np.int32(0)
        for i in range(size):
            balance = np.int32(balance + np.int32(signs[i] > _NOTHING) - np.int32(signs[i] < _NOTHING))
        elected += np.int64(balance)
    return elected, bool(odd == 0)


@_compiled
def l1_norms(
    rows: Array,
    base: Array,
    chances: Array,
    keys: Array,
    place: int,
    low: Array,
    high: Array,
    norms: Array,
) -> bool:
    """`norms[0, k]` of every task vector, `norms[1, k]` of what a random drop and a trim leave; whether all is finite.

    `norms` is `(2, k)` float64, written into.
    """
    values, draws, room = np.empty(_RUN, np.float32), np.empty(_RUN + 8, np.float32), np.empty(_RUN, np.float32)
    norms[:] = 0.0
    odd = np.uint32(0)
    for begin in range(0, base.size, _RUN):
        size = min(_RUN, base.size - begin)
        vector, below = values[:size], room[:size]
        widen(base[begin : begin + size], below)
        for k in range(rows.shape[0]):
            odd |= np.uint32(_difference(rows[k, begin : begin + size], below, vector) >= _TOO_LARGE)
            norms[0, k] += run_magnitude(vector)
            if chances[k] < np.float32(1):
                _drop(vector, keys[k], place + begin, chances[k], draws)
            if low[k] > _NOTHING or high[k] < np.float32(np.inf):
                least = low.view(np.uint32)[k]
                _trim(vector, least, np.uint32(high.view(np.uint32)[k] - least))
            norms[1, k] += run_magnitude(vector)
    return bool(odd == 0)


@_compiled
def count(
    row: Array,
    base: Array,
    chances: Array,
    keys: Array,
    place: int,
    lows: Array,
    highs: Array,
    counts: Array,
    kept: Array,
    ends: Array,
) -> bool:
    """`compiled_brackets.count_brackets` for one vector's magnitudes; whether every difference is finite."""
    values, draws, sizes = np.empty(_RUN, np.float32), np.empty(_RUN + 8, np.float32), np.empty(_RUN, np.int32)
    room = np.empty(_RUN, np.float32)
    ends[:] = 0
    odd = np.uint32(0)
    for begin in range(0, row.size, _RUN):
        size = min(_RUN, row.size - begin)
        vector, below = values[:size], room[:size]
        widen(base[begin : begin + size], below)
        odd |= np.uint32(_difference(row[begin : begin + size], below, vector) >= _TOO_LARGE)
        if chances[0] < np.float32(1):
            _drop(vector, keys[0], place + begin, chances[0], draws)
        keys_of(vector.view(np.int32), False, sizes[:size])
        for j in range(lows.size):
            if _count(sizes[:size], lows[j], highs[j], counts[j]) > 0:
                ends[j] = _keep(sizes[:size], lows[j], highs[j], kept[j], ends[j])
    return bool(odd == 0)


@_compiled
def count_ties(
    row: Array, base: Array, chances: Array, keys: Array, place: int, sought: int, columns: int, counts: Array
) -> bool:
    """`counts[i]` = entries of row i whose magnitude has the bits sought; whether every difference is finite."""
    values, draws, room = np.empty(_RUN, np.float32), np.empty(_RUN + 8, np.float32), np.empty(_RUN, np.float32)
    odd, wanted = np.uint32(0), np.int32(sought)
    for line in range(counts.size):
        counts[line] = 0
        for begin in range(line * columns, (line + 1) * columns, _RUN):
            size = min(_RUN, (line + 1) * columns - begin)
            vector, below = values[:size], room[:size]
            widen(base[begin : begin + size], below)
            odd |= np.uint32(_difference(row[begin : begin + size], below, vector) >= _TOO_LARGE)
            if chances[0] < np.float32(1):
                _drop(vector, keys[0], place + begin, chances[0], draws)
            bits, found = vector.view(np.int32), np.int32(0)
            for i in range(size):
                found = np.int32(found + np.int32((bits[i] & np.int32(0x7FFFFFFF)) == wanted))
            counts[line] += np.int64(found)
    return bool(odd == 0)
