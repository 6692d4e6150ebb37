"""Compiled loops of the methods that weigh whole vectors against each other: PCB scores, consensus, stitching.

They go through the entries in short runs, vector by vector: a run stays in the nearest cache, and its inner loops have
no branches, so that the compiler makes them wide.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genepool.kernels.compiled import _RUN, Array, _compiled

f4, u4, i4 = np.float32, np.uint32, np.int32
_LOG2_E = 1.4426950408889634


@_compiled
def _add_up(vectors: Array, begin: int, total: Array) -> None:
    total[:] = f4(0)
    for k in range(vectors.shape[0]):
        vector = vectors[k, begin : begin + total.size]
        for i in range(total.size):
            total[i] += vector[i]


@_compiled
def _scores(vector: Array, total: Array, low: float, scale: float, high: float, steepness: Any, out: Array) -> None:
    """`competition.scores` of one vector; see there."""
    for i in range(out.size):
        share = (min(max(abs(vector[i]), low), high) - low) * scale
        exponent = max((share * share - f4(1)) * steepness, f4(-126))
        whole = (exponent + f4(12582912)) - f4(12582912)
        rest = exponent - whole
        power = f4(1.5403530e-4)
        power = power * rest + f4(1.3333558e-3)
        power = power * rest + f4(9.6181291e-3)
        power = power * rest + f4(5.5504109e-2)
        power = power * rest + f4(2.4022651e-1)
        power = power * rest + f4(6.9314718e-1)
        power = power * rest + f4(1)
        intra = power * u4((i4(whole) + i4(127)) << i4(23)).view(np.float32)
        x = min(max(vector[i] * total[i], f4(-9)), f4(9)) * f4(0.25)
        square = x * x
        above = x * (f4(135135) + square * (f4(17325) + square * (f4(378) + square)))
        below = f4(135135) + square * (f4(62370) + square * (f4(3150) + f4(28) * square))
        product = above * below
        below = above * above + below * below
        above = product + product
        product = above * below
        below = above * above + below * below
        above = product + product
        out[i] = intra * (above / below)


@_compiled
def scores(vectors: Array, low: Array, scale: Array, high: Array, out: Array) -> None:
    """The score of every entry; `out` is of the shape of `vectors`, `(k, n)`."""
    models, entries = vectors.shape
    total = np.empty(_RUN, f4)
    steepness = f4(models * _LOG2_E)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        _add_up(vectors, begin, total[:size])
        for k in range(models):
            own = out[k, begin : begin + size]
            _scores(vectors[k, begin : begin + size], total[:size], low[k], scale[k], high[k], steepness, own)


@_compiled
def _count_low(bits: Array, buckets: Array, counts: Array) -> None:
    """`counts[j, lower 16 bits] += 1` for those whose upper 16 bits are `buckets[j]`."""
    for begin in range(0, bits.size, 16):
        part = bits[begin : min(begin + 16, bits.size)]
        for j in range(buckets.size):
            wanted = u4(buckets[j])
            # Hardly any run of sixteen holds one, and this look at it is wide.
            met = u4(0)
            for i in range(part.size):
                met |= u4(u4(part[i] >> u4(16)) == wanted)
            if met:
                for i in range(part.size):
                    if part[i] >> u4(16) == wanted:
                        counts[j, part[i] & u4(0xFFFF)] += 1


@_compiled
def count_scores(
    vectors: Array, low: Array, scale: Array, high: Array, buckets: Array, counts: tuple[Array, ...]
) -> None:
    """Histograms over the bits of the scores, one array of `counts` for each vector."""
    models, entries = vectors.shape
    total, own = np.empty(_RUN, f4), np.empty(_RUN, f4)
    steepness = f4(models * _LOG2_E)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        _add_up(vectors, begin, total[:size])
        for k in range(models):
            vector = vectors[k, begin : begin + size]
            _scores(vector, total[:size], low[k], scale[k], high[k], steepness, own[:size])
            bits = own[:size].view(np.uint32)
            if buckets.shape[1]:
                _count_low(bits, buckets[k], counts[k])
            else:
                table = counts[k]
                for i in range(size):
                    table[0, bits[i] >> u4(16)] += 1


@_compiled
def _weigh(
    vector: Array,
    own: Array,
    least: float,
    most: float,
    bottom: float,
    stretch: float,
    merged: Array,
    weights: Array,
) -> None:
    """Adds a run of one clamped vector by its scores `own`."""
    for i in range(own.size):
        weight = max(own[i] - bottom, f4(0)) * stretch
        sign = f4(vector[i] > f4(0)) - f4(vector[i] < f4(0))
        merged[i] += sign * min(max(abs(vector[i]), least), most) * weight
        weights[i] += weight


@_compiled
def balance(
    vectors: Array, low: Array, scale: Array, high: Array, lowest: Array, weight_scale: Array, out: Array
) -> None:
    """`competition.balance`; see there."""
    models, entries = vectors.shape
    total, own, weights = np.empty(_RUN, f4), np.empty(_RUN, f4), np.empty(_RUN, f4)
    steepness = f4(models * _LOG2_E)
    for begin in range(0, entries, _RUN):
        run = min(_RUN, entries - begin)
        merged = out[begin : begin + run]
        _add_up(vectors, begin, total[:run])
        merged[:] = f4(0)
        weights[:] = f4(0)
        for k in range(models):
            vector = vectors[k, begin : begin + run]
            _scores(vector, total[:run], low[k], scale[k], high[k], steepness, own[:run])
            _weigh(vector, own[:run], low[k], high[k], lowest[k], weight_scale[k], merged, weights[:run])
        for i in range(run):
            merged[i] = merged[i] / weights[i] if weights[i] > f4(0) else f4(0)


@_compiled
def consensus(vectors: Array, factors: Array, thresholds: Array, needed: int, out: Array) -> None:
    """`agreement.consensus`; see there."""
    models, entries = vectors.shape
    total, masks = np.empty(_RUN, f4), np.empty(_RUN, f4)
    least = f4(needed)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        merged = out[begin : begin + size]
        _add_up(vectors, begin, total[:size])
        merged[:] = f4(0)
        masks[:] = f4(0)
        for k in range(models):
            vector, factor, threshold = vectors[k, begin : begin + size], factors[k], thresholds[k]
            for i in range(size):
                masks[i] += f4(abs(vector[i]) > abs(total[i] - vector[i]) * threshold)
                merged[i] += vector[i] * factor
        for i in range(size):
            merged[i] = merged[i] if masks[i] >= least else f4(0)


@_compiled
def stitch(vectors: Array, factors: Array, low: Array, out: Array) -> None:
    """`agreement.stitch`; see there."""
    models, entries = vectors.shape
    count = np.empty(_RUN, f4)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        merged = out[begin : begin + size]
        merged[:] = f4(0)
        count[:] = f4(0)
        for k in range(models):
            vector, factor, threshold = vectors[k, begin : begin + size], factors[k], low[k]
            for i in range(size):
                inside = (abs(vector[i]) >= threshold) & (vector[i] != f4(0))
                merged[i] += vector[i] * factor if inside else f4(0)
                count[i] += f4(inside)
        for i in range(size):
            merged[i] /= max(count[i], f4(1))
