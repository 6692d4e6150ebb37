"""Compiled loops of the methods that choose entries: where task vectors overlap, how much they vary, what is kept."""

from __future__ import annotations

import numpy as np

from genepool.kernels.compiled import _RUN, Array, _compiled, _compiled_sum


@_compiled
def _count_active(vectors: Array, begin: int, limit: np.float32, active: Array) -> None:
    active[:] = 0
    for k in range(vectors.shape[0]):
        vector = vectors[k, begin : begin + active.size]
        for i in range(active.size):
            active[i] += np.int32(abs(vector[i]) > limit)


@_compiled
def overlap_counts(vectors: Array, epsilon: float, counts: Array) -> None:
    """Adds to `counts[k]` how many entries of vector k are beyond `epsilon` in no other vector, and in another too."""
    models, entries = vectors.shape
    limit = np.float32(epsilon)
    run = np.empty(_RUN, np.int32)
    for begin in range(0, entries, _RUN):
        active = run[: min(_RUN, entries - begin)]
        _count_active(vectors, begin, limit, active)
        for k in range(models):
            vector = vectors[k, begin : begin + active.size]
            alone, shared = np.int32(0), np.int32(0)
            for i in range(active.size):
                beyond = np.int32(abs(vector[i]) > limit)
                alone += beyond & np.int32(active[i] == 1)
                shared += beyond & np.int32(active[i] > 1)
            counts[k, 0] += alone
            counts[k, 1] += shared


@_compiled
def overlap_mean(vectors: Array, epsilon: float, factors: Array, out: Array) -> None:
    """Per entry the mean of the vectors beyond `epsilon`; one that is alone counts times its factor."""
    models, entries = vectors.shape
    limit, none = np.float32(epsilon), np.float32(0)
    run, alone = np.empty(_RUN, np.int32), np.empty(_RUN, np.float32)
    for begin in range(0, entries, _RUN):
        active = run[: min(_RUN, entries - begin)]
        total = out[begin : begin + active.size]
        _count_active(vectors, begin, limit, active)
        total[:] = none
        alone[:] = none
        for k in range(models):
            vector, factor = vectors[k, begin : begin + active.size], factors[k]
            for i in range(active.size):
                value = vector[i] if abs(vector[i]) > limit else none
                total[i] += value
                alone[i] += value * factor
        for i in range(active.size):
            mean = total[i] / np.float32(max(active[i], 1))
            total[i] = alone[i] if active[i] == 1 else mean


@_compiled
def variances(vectors: Array, out: Array) -> None:
    """`variance.variances`; see there."""
    models, entries = vectors.shape
    count, run = np.float32(models), np.empty(_RUN, np.float32)
    for begin in range(0, entries, _RUN):
        size = min(_RUN, entries - begin)
        mean, total = run[:size], out[begin : begin + size]
        mean[:] = np.float32(0)
        total[:] = np.float32(0)
        for k in range(models):
            vector = vectors[k, begin : begin + size]
            for i in range(size):
                mean[i] += vector[i]
        for i in range(size):
            mean[i] /= count
        for k in range(models):
            vector = vectors[k, begin : begin + size]
            for i in range(size):
                away = vector[i] - mean[i]
                total[i] += away * away


@_compiled
def keep_largest(vectors: Array, sizes: Array, threshold: float) -> None:
    """`variance.keep_largest`; see there."""
    least = np.float32(threshold)
    for k in range(vectors.shape[0]):
        vector = vectors[k]
        for i in range(sizes.size):
            vector[i] = vector[i] if sizes[i] >= least else np.float32(0)


@_compiled_sum
def sum_of_squares(vector: Array) -> float:
    """In float64, in whatever order is fastest."""
    total = 0.0
    for i in range(vector.size):
        total += np.float64(vector[i]) * np.float64(vector[i])
    return total


@_compiled
def keep_marked(bits: Array, marks: Array) -> None:
    """Sets to zero the float32 whose mark, a byte of 0 or 1, is 0."""
    for i in range(bits.size):
        bits[i] &= np.uint32(0) - np.uint32(marks[i])
