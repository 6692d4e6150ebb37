"""Compiled loops of DELLA: ranks of magnitudes within rows, and what is dropped by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from genepool.kernels.compiled import _MAGNITUDE, Array, _compiled, philox

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
# Bits sorted by in one step of the radix sort; three steps order the 31 bits of a magnitude.
_DIGIT = 11
_DIGIT_MASK = np.uint64((1 << _DIGIT) - 1)


@_compiled
def _rank_row(bits: Array, pairs: Array, spare: Array, starts: Array, ranks: Array) -> None:
    """Ranks of one row's magnitudes over `columns - 1`; equal ones share their mean rank.

    A radix sort of (magnitude bits, place) pairs packed into 64 bits: no row takes longer than another.
    """
    columns = bits.size
    last = np.float32(max(columns - 1, 1))
    starts[:] = 0
    for i in range(columns):
        size = np.uint64(bits[i] & _MAGNITUDE)
        pairs[i] = (size << _HALF) | np.uint64(i)
        for step in range(3):
            starts[step, ((size >> np.uint64(step * _DIGIT)) & _DIGIT_MASK) + np.uint64(1)] += 1
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
            ranks[pairs[i] & _MASK] = rank
        first = end


@_compiled
def row_ranks(rows: Array, ranks: Array) -> None:
    """Ranks of the magnitudes within each row, from 0 to 1."""
    lines, columns = rows.shape
    bits = rows.view(np.uint32)
    pairs, spare = np.empty(columns, np.uint64), np.empty(columns, np.uint64)
    starts = np.empty((3, (1 << _DIGIT) + 1), np.int32)
    for line in range(lines):
        _rank_row(bits[line], pairs, spare, starts, ranks[line])


@_compiled
def drop_by_rank(rows: Array, key: int, offset: int, least: float, span: float, rescale: bool) -> None:
    """`row = 0` where the stream `key` has no number below `least + span * rank`, divided by that where it stays."""
    lines, columns = rows.shape
    bits = rows.view(np.uint32)
    pairs, spare = np.empty(columns, np.uint64), np.empty(columns, np.uint64)
    starts = np.empty((3, (1 << _DIGIT) + 1), np.int32)
    probabilities = np.empty(columns, np.float32)
    draws = np.empty((columns + 7) // 4 * 4, np.float32)
    floor, slope = np.float32(least), np.float32(span)
    for line in range(lines):
        _rank_row(bits[line], pairs, spare, starts, probabilities)
        begin = offset + line * columns
        philox(key, begin // 4, draws)
        ahead = begin % 4
        row = rows[line]
        for i in range(columns):
            probability = probabilities[i] * slope + floor
            value = row[i] / probability if rescale else row[i]
            row[i] = value if draws[ahead + i] < probability else np.float32(0)


# Buckets of magnitudes within a row: the upper half of a float32, five powers of two from the largest down.
_BUCKETS = 640
# Entries that are counted in a row; to sort costs no more from about here on, whatever the row's length.
_MOST_COUNTED = 64
_UPPER = np.uint32(16)


@_compiled
def _probability(twice: Any, columns: int, floor: np.float32, slope: np.float32) -> Any:
    """What the entry whose mean rank is half of `twice` stays with; rounds as `_rank_row` and `drop_by_rank` do."""
    last = np.float32(max(columns - 1, 1))
    rank = np.float32(0.5) * np.float32(twice) / last if columns > 1 else np.float32(0.5)
    return rank * slope + floor


@_compiled
def _counted_probability(keys: Array, key: np.uint32, floor: np.float32, slope: np.float32) -> Any:
    """The same of one key of a row, by counting all others."""
    below, until = np.int32(0), np.int32(0)
    sought, beyond = np.int32(key), np.int32(np.int32(key) + np.int32(1))
    # Magnitudes have no sign bit: comparing them as signed numbers is the faster way.
    signed = keys.view(np.int32)
    # Cast at every step: a sum of two int32 is an int64 otherwise, and takes several times as long.
    for i in range(signed.size):
        below = np.int32(below + np.int32(signed[i] < sought))
        until = np.int32(until + np.int32(signed[i] < beyond))
    return _probability(np.int64(below) + np.int64(until) - 1, keys.size, floor, slope)


@_compiled
def _fill_buckets(keys: Array, buckets: Array, first: np.uint32, counts: Array, mixed: Array) -> None:
    """Counts the keys of each bucket, and says which buckets may hold more than one magnitude."""
    columns = keys.size
    counts[:] = 0
    mixed[:] = 0
    # Smaller keys share the first bucket.
    mixed[0] = np.uint8(first > np.uint32(0))
    # Two tables in turn: few values are met so often that one would wait for itself.
    even, odd = counts[0], counts[1]
    for i in range(0, columns - 1, 2):
        even[buckets[i]] += 1
        odd[buckets[i + 1]] += 1
    if columns % 2:
        even[buckets[columns - 1]] += np.int32(1)
    for i in range(columns):
        mixed[buckets[i]] |= np.uint8((keys[i] & np.uint32(0xFFFF)) != np.uint32(0))


@_compiled
def _drop_row(  # noqa: C901 (a row of plain loops is what the compiler makes vectors of)
    row: Array,
    draws: Array,
    floor: np.float32,
    slope: np.float32,
    keys: Array,
    buckets: Array,
    counts: Array,
    lower: Array,
    upper: Array,
    mixed: Array,
    unsure: Array,
    sure: Array,
    likely: Array,
) -> bool:
    """Drops entries of one row by the bounds of their ranks; False, and nothing is done, where too few are decided."""
    columns = row.size
    bits = row.view(np.uint32)
    most = np.uint32(0)
    for i in range(columns):
        keys[i] = bits[i] & _MAGNITUDE
        most = max(most, keys[i])
    first = np.uint32(max(np.int32(most >> _UPPER) - np.int32(_BUCKETS - 1), np.int32(0)))
    for i in range(columns):
        buckets[i] = np.uint32(max(np.uint32(keys[i] >> _UPPER), first) - first)
    _fill_buckets(keys, buckets, first, counts, mixed)
    even, odd = counts[0], counts[1]
    below = 0
    for bucket in range(_BUCKETS):
        here = even[bucket] + odd[bucket]
        if here:
            if mixed[bucket]:
                # Mean ranks of a bucket lie between those of its first and of its last entry.
                lower[bucket] = _probability(2 * below, columns, floor, slope)
                upper[bucket] = _probability(2 * (below + here - 1), columns, floor, slope)
            else:
                # Equal magnitudes, as most of a bucket are among differences of bfloat16.
                lower[bucket] = upper[bucket] = _probability(2 * below + here - 1, columns, floor, slope)
            below += here
    # Looked up first: the comparisons after it are made wide, and half of their outcomes no branch would foresee.
    for i in range(columns):
        sure[i] = lower[buckets[i]]
    for i in range(columns):
        likely[i] = upper[buckets[i]]
    for i in range(columns):
        # To drop a zero changes nothing, and rows of differences of bfloat16 are mostly zeros.
        within = np.uint32(draws[i] >= sure[i]) & np.uint32(draws[i] < likely[i])
        unsure[i] = within & np.uint32(bits[i] != np.uint32(0))
    to_count = np.uint32(0)
    for i in range(columns):
        to_count = np.uint32(to_count + unsure[i])
    if to_count > _MOST_COUNTED:
        return False
    for i in range(columns):
        bits[i] = bits[i] if draws[i] < likely[i] else np.uint32(0)
    for begin in range(0, columns, 64):
        part = unsure[begin : min(begin + 64, columns)]
        met = np.uint32(0)
        for i in range(part.size):
            met |= part[i]
        if met:
            for i in range(begin, begin + part.size):
                if unsure[i] and draws[i] >= _counted_probability(keys, keys[i], floor, slope):
                    row[i] = np.float32(0)
    return True


@_compiled
def drop_by_bounds(rows: Array, key: int, offset: int, least: float, span: float) -> None:
    """What `drop_by_rank` does without rescaling, mostly without sorting.

    A draw decides nearly every entry by the bounds of its rank; the few others are ranked by counting. A row of nearly
    one magnitude is sorted.
    """
    lines, columns = rows.shape
    keys, buckets, unsure = np.empty(columns, np.uint32), np.empty(columns, np.uint32), np.empty(columns, np.uint32)
    sure, likely = np.empty(columns, np.float32), np.empty(columns, np.float32)
    counts = np.empty((2, _BUCKETS), np.int32)
    lower, upper = np.empty(_BUCKETS, np.float32), np.empty(_BUCKETS, np.float32)
    mixed = np.empty(_BUCKETS, np.uint8)
    draws = np.empty((columns + 7) // 4 * 4, np.float32)
    floor, slope = np.float32(least), np.float32(span)
    for line in range(lines):
        begin = offset + line * columns
        philox(key, begin // 4, draws)
        ahead = begin % 4
        own = draws[ahead : ahead + columns]
        if not _drop_row(
            rows[line], own, floor, slope, keys, buckets, counts, lower, upper, mixed, unsure, sure, likely
        ):
            drop_by_rank(rows[line : line + 1], key, begin, least, span, False)


# Buckets where every rank is wanted: zeros, ten powers of two from the largest down, and before these all that is less.
_FINE_BUCKETS = 1282
# Entries of a bucket that are sorted by insertion, at most.
_MOST_SORTED = 64


@_compiled
def _fill_fine_buckets(row: Array, keys: Array, buckets: Array, counts: Array, odd: Array) -> None:
    """Counts the entries of each bucket, in two tables in turn, and in a third those with more than its upper half."""
    columns = row.size
    bits = row.view(np.uint32)
    most = np.uint32(0)
    for i in range(columns):
        keys[i] = bits[i] & _MAGNITUDE
        most = max(most, keys[i])
    first = np.uint32(max(np.int32(most >> _UPPER) - np.int32(_FINE_BUCKETS - 3), np.int32(0)))
    for i in range(columns):
        upper = np.uint32(keys[i] >> _UPPER)
        among = np.uint32(np.uint32(max(upper, first) - first) + np.uint32(2))
        smaller = np.uint32(1) if upper < first else among
        buckets[i] = smaller if keys[i] else np.uint32(0)
        # Those in the bucket of all that is less differ in their upper halves.
        odd[i] = np.uint32((keys[i] & np.uint32(0xFFFF)) != np.uint32(0)) | np.uint32(buckets[i] == np.uint32(1))
    counts[:] = 0
    for i in range(0, columns - 1, 2):
        counts[0, buckets[i]] += np.int32(1)
        counts[1, buckets[i + 1]] += np.int32(1)
    if columns % 2:
        counts[0, buckets[columns - 1]] += np.int32(1)
    for i in range(columns):
        if odd[i]:
            counts[2, buckets[i]] += np.int32(1)


@_compiled
def _rank_by_buckets(
    row: Array,
    floor: np.float32,
    slope: np.float32,
    keys: Array,
    buckets: Array,
    odd: Array,
    counts: Array,
    of_bucket: Array,
    before: Array,
    ends: Array,
    pairs: Array,
    probabilities: Array,
) -> bool:
    """The probability of every entry of a row; False where too many are more than the upper half of their bits."""
    columns = row.size
    _fill_fine_buckets(row, keys, buckets, counts, odd)
    below, held = 0, 0
    for bucket in range(_FINE_BUCKETS):
        others = counts[2, bucket]
        # Those with the upper half alone are the smallest of their bucket, and equal.
        equal = counts[0, bucket] + counts[1, bucket] - others
        if others > _MOST_SORTED:
            return False
        of_bucket[bucket] = _probability(2 * below + equal - 1, columns, floor, slope)
        below += equal
        # Where the pairs of the others begin, and how much higher than there the first one ranks.
        ends[bucket], before[bucket] = held, below - held
        below += others
        held += others
    if held > columns // 8:
        return False
    for i in range(columns):
        probabilities[i] = of_bucket[buckets[i]]
    if not held:
        return True
    for i in range(columns):
        if odd[i]:
            bucket = buckets[i]
            pairs[ends[bucket]] = (np.uint64(keys[i]) << _HALF) | np.uint64(i)
            ends[bucket] += 1
    # Buckets lie in the order of their magnitudes, so that no pair leaves its own.
    for i in range(1, held):
        pair, at = pairs[i], i
        while at > 0 and pairs[at - 1] > pair:
            pairs[at] = pairs[at - 1]
            at -= 1
        pairs[at] = pair
    begin = 0
    while begin < held:
        end = begin + 1
        while end < held and pairs[end] >> _HALF == pairs[begin] >> _HALF:
            end += 1
        rank = begin + before[buckets[pairs[begin] & _MASK]]
        probability = _probability(2 * rank + end - begin - 1, columns, floor, slope)
        for i in range(begin, end):
            probabilities[pairs[i] & _MASK] = probability
        begin = end
    return True


@_compiled
def drop_by_buckets(rows: Array, key: int, offset: int, least: float, span: float) -> None:
    """What `drop_by_rank` does with rescaling, without sorting where most entries have no lower half of bits.

    So it is with differences of bfloat16. From the first row on that is unlike that, all are sorted: rows of a tensor
    are alike.
    """
    lines, columns = rows.shape
    keys, buckets, odd = np.empty(columns, np.uint32), np.empty(columns, np.uint32), np.empty(columns, np.uint32)
    counts, of_bucket = np.empty((3, _FINE_BUCKETS), np.int32), np.empty(_FINE_BUCKETS, np.float32)
    before, ends = np.empty(_FINE_BUCKETS, np.int64), np.empty(_FINE_BUCKETS, np.int64)
    probabilities, pairs = np.empty(columns, np.float32), np.empty(columns // 8 + 1, np.uint64)
    draws = np.empty((columns + 7) // 4 * 4, np.float32)
    floor, slope = np.float32(least), np.float32(span)
    for line in range(lines):
        begin = offset + line * columns
        row = rows[line]
        if not _rank_by_buckets(
            row, floor, slope, keys, buckets, odd, counts, of_bucket, before, ends, pairs, probabilities
        ):
            drop_by_rank(rows[line:], key, begin, least, span, True)
            return
        philox(key, begin // 4, draws)
        ahead = begin % 4
        for i in range(columns):
            value = row[i] / probabilities[i]
            row[i] = value if draws[ahead + i] < probabilities[i] else np.float32(0)
