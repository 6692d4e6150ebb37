"""Boxes of tensors, and which axes of two shapes hold the same entries: the arithmetic behind `views`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, ...]
# (start, stop) along every axis.
Box = tuple[tuple[int, int], ...]


def within(outer: Box, box: Box) -> Box:
    """A box that is relative to the start of another, as an absolute one."""
    return tuple((start + a, start + b) for (start, _), (a, b) in zip(outer, box, strict=True))


def relative(box: Box, outer: Box) -> Box:
    """An absolute box as one that is relative to the start of another."""
    return tuple((a - start, b - start) for (a, b), (start, _) in zip(box, outer, strict=True))


def intersection(one: Box, other: Box) -> Box:
    """What two boxes share; they overlap."""
    return tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def boxes_of_rows(leading: Shape, start: int, stop: int) -> Iterator[Box]:
    """Rows counted over the leading axes, as boxes of them: at most two for each axis and one more."""
    if not leading:
        yield ()
        return
    inner = math.prod(leading[1:])
    if start >= stop or not inner:
        yield ((0, 0), *((0, size) for size in leading[1:]))
        return
    first, last = start // inner, (stop - 1) // inner
    if first == last:
        for rest in boxes_of_rows(leading[1:], start - first * inner, stop - first * inner):
            yield ((first, first + 1), *rest)
        return
    whole_from, whole_to = -(-start // inner), stop // inner
    if first < whole_from:
        for rest in boxes_of_rows(leading[1:], start - first * inner, inner):
            yield ((first, first + 1), *rest)
    if whole_from < whole_to:
        yield ((whole_from, whole_to), *((0, size) for size in leading[1:]))
    if whole_to <= last:
        for rest in boxes_of_rows(leading[1:], 0, stop - last * inner):
            yield ((last, last + 1), *rest)


def runs_of_rows(leading: Shape, box: Box) -> Iterator[tuple[int, int]]:
    """The rows of a box over the leading axes, as runs in the order of the file."""
    partial = [axis for axis, (span, size) in enumerate(zip(box, leading, strict=True)) if span != (0, size)]
    if not partial:
        yield 0, math.prod(leading)
        return
    last = partial[-1]
    inner = math.prod(leading[last + 1 :])
    for place in itertools.product(*(range(*span) for span in box[:last])):
        before = 0
        for index, size in zip(place, leading, strict=False):
            before = before * size + index
        before *= leading[last]
        yield (before + box[last][0]) * inner, (before + box[last][1]) * inner


@dataclass(frozen=True)
class SameEntries:
    """Axes of two shapes that hold the same entries.

    Attributes:
        inner, outer: the axes on either side.
        is_axis: whether at most one axis of either side has more than one entry, and of as many.
        place: which of the outer axes that is.
    """

    inner: tuple[int, ...]
    outer: tuple[int, ...]
    is_axis: bool
    place: int = 0


def grouped(inner: Shape, outer: Shape) -> tuple[SameEntries, ...]:
    """The smallest groups of axes that two shapes of the same entries have in common, in their order."""
    groups: list[SameEntries] = []
    i = j = 0
    while i < len(inner) or j < len(outer):
        first, second = i, j
        left, right = 1, 1
        while True:
            if left == right and (i > first or j > second):
                break
            if (left <= right and i < len(inner)) or j == len(outer):
                left *= inner[i]
                i += 1
            else:
                right *= outer[j]
                j += 1
        groups.append(_group(inner, outer, range(first, i), range(second, j)))
    return tuple(groups)


def _group(inner: Shape, outer: Shape, ours: range, theirs: range) -> SameEntries:
    large = [axis for axis in ours if inner[axis] != 1], [axis for axis in theirs if outer[axis] != 1]
    is_axis = len(large[0]) <= 1 and len(large[1]) <= 1
    place = large[1][0] - theirs.start if large[1] else 0
    return SameEntries(tuple(ours), tuple(theirs), is_axis, place)
