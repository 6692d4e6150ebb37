"""Tensors made of parts of other tensors, described and not yet read: what a conversion between two layouts is.

A view is a tree of a few kinds: a stored tensor, a part of one, several joined, the axes in another order, another
shape. Nothing is computed, entries only change their places; so the bytes of a view are bytes of a file, and a part of
it reads just what it is made of. Whoever reads gives a callable for rows of the stored tensors. Imports torch only to
read.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
# (start, stop) along every axis.
Box = tuple[tuple[int, int], ...]
# Rows `start` to `stop` of a stored tensor as a matrix, `(stop - start, columns)`.
ReadRows = Callable[[str, int, int], "torch.Tensor"]


class View(ABC):
    """A tensor made of stored ones.

    Attributes:
        shape: its shape.
    """

    shape: Shape

    @abstractmethod
    def read(self, box: Box, rows: ReadRows) -> torch.Tensor:
        """The entries of a box, in the box's shape. Never write into them."""

    @abstractmethod
    def leaves(self) -> Iterator[Leaf]:
        """The stored tensors it is made of."""

    @property
    def is_scattered(self) -> bool:
        """Whether rows of it lie across rows of what is stored, so that neighbours are read with them."""
        return False

    @property
    def full(self) -> Box:
        """The box of all entries."""
        return tuple((0, size) for size in self.shape)

    def read_rows(self, start: int, stop: int, rows: ReadRows) -> torch.Tensor:
        """Rows of it as a matrix, `(stop - start, columns)`."""
        import torch

        columns = self.shape[-1] if self.shape else 1
        last = ((0, columns),) if self.shape else ()
        parts = [
            self.read((*box, *last), rows).reshape(-1, columns) for box in _boxes_of_rows(self.shape[:-1], start, stop)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Leaf(View):
    """A stored tensor as it is."""

    name: str
    shape: Shape

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def read_rows(self, start: int, stop: int, rows: ReadRows) -> torch.Tensor:
        return rows(self.name, start, stop)

    def read(self, box: Box, rows: ReadRows) -> torch.Tensor:
        import torch

        if not self.shape:
            return rows(self.name, 0, 1).reshape(())
        leading, (first, end) = box[:-1], box[-1]
        ranges = list(_runs_of_rows(self.shape[:-1], leading))
        parts = [rows(self.name, start, stop)[:, first:end] for start, stop in ranges]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        return found.reshape(tuple(stop - start for start, stop in box))


@dataclass(frozen=True)
class Cut(View):
    """A box of another view."""

    inner: View
    box: Box

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """The box's."""
        return tuple(stop - start for start, stop in self.box)

    def leaves(self) -> Iterator[Leaf]:
        return self.inner.leaves()

    @property
    def is_scattered(self) -> bool:
        return self.inner.is_scattered

    def read(self, box: Box, rows: ReadRows) -> torch.Tensor:
        return self.inner.read(_within(self.box, box), rows)


@dataclass(frozen=True)
class Permuted(View):
    """Another view with its axes in another order: axis `i` is the inner axis `order[i]`."""

    inner: View
    order: tuple[int, ...]

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """The inner one's, its axes in the new order."""
        return tuple(self.inner.shape[axis] for axis in self.order)

    def leaves(self) -> Iterator[Leaf]:
        return self.inner.leaves()

    @property
    def is_scattered(self) -> bool:
        return True

    def read(self, box: Box, rows: ReadRows) -> torch.Tensor:
        inner: list[tuple[int, int]] = [(0, 0)] * len(box)
        for axis, span in zip(self.order, box, strict=True):
            inner[axis] = span
        return self.inner.read(tuple(inner), rows).permute(self.order)


@dataclass(frozen=True)
class Reshaped(View):
    """Another view in another shape, entries in the order of rows."""

    inner: View
    shape: Shape

    def leaves(self) -> Iterator[Leaf]:
        return self.inner.leaves()

    @property
    def is_scattered(self) -> bool:
        return self.inner.is_scattered or any(not group.is_axis for group in self._groups)

    @cached_property
    def _groups(self) -> tuple[_SameEntries, ...]:
        return _grouped(self.inner.shape, self.shape)

    def read(self, box: Box, rows: ReadRows) -> torch.Tensor:
        inner: list[tuple[int, int]] = []
        shape: list[int] = []
        cut: list[slice] = []
        for group in self._groups:
            if group.is_axis:
                # The same axis, among axes of one entry: its span is the box's.
                span = box[group.outer[group.place]] if group.outer else (0, 1)
                inner += [span if self.inner.shape[axis] != 1 else (0, 1) for axis in group.inner]
                shape += [box[axis][1] - box[axis][0] for axis in group.outer]
                cut += [slice(None)] * len(group.outer)
            else:
                inner += [(0, self.inner.shape[axis]) for axis in group.inner]
                shape += [self.shape[axis] for axis in group.outer]
                cut += [slice(*box[axis]) for axis in group.outer]
        return self.inner.read(tuple(inner), rows).reshape(shape)[tuple(cut)]


@dataclass(frozen=True)
class Joined(View):
    """Views laid into boxes of one tensor. Boxes do not overlap; what none of them covers is zero."""

    shape: Shape
    pieces: tuple[tuple[Box, View], ...]

    def leaves(self) -> Iterator[Leaf]:
        for _, piece in self.pieces:
            yield from piece.leaves()

    @property
    def is_scattered(self) -> bool:
        return any(piece.is_scattered for _, piece in self.pieces)

    @cached_property
    def is_whole(self) -> bool:
        """Whether the pieces cover it."""
        return sum(math.prod(piece.shape) for _, piece in self.pieces) == math.prod(self.shape)

    @cached_property
    def _along(self) -> int | None:
        """The one axis that the pieces follow each other along; None when they lie otherwise."""
        full = self.full
        axes = {axis for box, _ in self.pieces for axis, span in enumerate(box) if span != full[axis]}
        return next(iter(axes)) if len(axes) == 1 else None

    @cached_property
    def _starts(self) -> list[int]:
        assert self._along is not None
        return [box[self._along][0] for box, _ in self.pieces]

    def overlapping(self, box: Box) -> Iterator[tuple[Box, View]]:
        """The pieces that have entries in a box."""
        candidates: Iterable[tuple[Box, View]] = self.pieces
        if (along := self._along) is not None:
            start, stop = box[along]
            first = max(0, bisect_right(self._starts, start) - 1)
            candidates = itertools.takewhile(
                lambda piece: piece[0][along][0] < stop, itertools.islice(self.pieces, first, None)
            )
        for place, piece in candidates:
            if all(a < d and c < b for (a, b), (c, d) in zip(place, box, strict=True)):
                yield place, piece

    def read(self, box: Box, rows: ReadRows) -> torch.Tensor:
        import torch

        found = []
        for place, piece in self.overlapping(box):
            common = _common(place, box)
            part = piece.read(_relative(common, place), rows)
            if common == box:
                return part
            found.append((_relative(common, box), part))
        shape = tuple(stop - start for start, stop in box)
        out = torch.zeros(shape, dtype=found[0][1].dtype if found else torch.float32)
        for place, part in found:
            out[tuple(slice(*span) for span in place)] = part
        return out


# ---------------------------------------------------------------------- making them, as simple as they can be


def cut(view: View, box: Box) -> View:
    """A box of a view, moved inwards as far as it goes, so that a part of what was joined is that part again."""
    if box == view.full:
        return view
    if isinstance(view, Cut):
        return cut(view.inner, _within(view.box, box))
    if isinstance(view, Permuted):
        inner: list[tuple[int, int]] = [(0, 0)] * len(box)
        for axis, span in zip(view.order, box, strict=True):
            inner[axis] = span
        return permuted(cut(view.inner, tuple(inner)), view.order)
    if isinstance(view, Joined):
        pieces = []
        for place, piece in view.overlapping(box):
            common = _common(place, box)
            pieces.append((_relative(common, box), cut(piece, _relative(common, place))))
        return joined(tuple(stop - start for start, stop in box), pieces)
    if isinstance(view, Reshaped):
        found = _cut_inside(view, box)
        if found is not None:
            return found
    return Cut(view, box)


def _cut_inside(view: Reshaped, box: Box) -> View | None:
    inner: list[tuple[int, int]] = []
    for group in view._groups:
        if group.is_axis:
            span = box[group.outer[group.place]] if group.outer else (0, 1)
            inner += [span if view.inner.shape[axis] != 1 else (0, 1) for axis in group.inner]
        elif all(box[axis] == (0, view.shape[axis]) for axis in group.outer):
            inner += [(0, view.inner.shape[axis]) for axis in group.inner]
        else:
            return None
    return reshaped(cut(view.inner, tuple(inner)), tuple(stop - start for start, stop in box))


def joined(shape: Shape, pieces: Sequence[tuple[Box, View]]) -> View:
    """Views laid into boxes of a tensor of this shape; a piece that is all of it is itself."""
    if len(pieces) == 1 and pieces[0][1].shape == shape:
        return pieces[0][1]
    if (one := _of_one(shape, pieces)) is not None:
        return one
    return Joined(shape, tuple(sorted(pieces, key=lambda piece: piece[0])))


def _of_one(shape: Shape, pieces: Sequence[tuple[Box, View]]) -> View | None:
    """The view that all pieces are cut out of, where they lie in it as they lie here; None where they do not."""
    if not pieces or not isinstance(first := pieces[0][1], Cut):
        return None
    start = tuple(a - c for (a, _), (c, _) in zip(first.box, pieces[0][0], strict=True))
    for place, piece in pieces:
        if not isinstance(piece, Cut) or piece.inner != first.inner:
            return None
        if any(a - c != offset for (a, _), (c, _), offset in zip(piece.box, place, start, strict=True)):
            return None
    if sum(math.prod(piece.shape) for _, piece in pieces) != math.prod(shape):
        return None
    return cut(first.inner, tuple((offset, offset + size) for offset, size in zip(start, shape, strict=True)))


def permuted(view: View, order: tuple[int, ...]) -> View:
    """A view with its axes in another order."""
    if isinstance(view, Permuted):
        return permuted(view.inner, tuple(view.order[axis] for axis in order))
    return view if order == tuple(range(len(order))) else Permuted(view, order)


def reshaped(view: View, shape: Shape) -> View:
    """A view in another shape."""
    if isinstance(view, Reshaped):
        view = view.inner
    return view if view.shape == shape else Reshaped(view, shape)


def substituted(view: View, known: Mapping[str, View]) -> View:
    """A view with its stored tensors replaced by views of others; what is not known becomes zero."""
    if isinstance(view, Leaf):
        return known.get(view.name) or Joined(view.shape, ())
    if isinstance(view, Cut):
        return cut(substituted(view.inner, known), view.box)
    if isinstance(view, Permuted):
        return permuted(substituted(view.inner, known), view.order)
    if isinstance(view, Reshaped):
        return reshaped(substituted(view.inner, known), view.shape)
    assert isinstance(view, Joined)
    return joined(view.shape, [(box, substituted(piece, known)) for box, piece in view.pieces])


# ---------------------------------------------------------------------- boxes and shapes


def _within(outer: Box, box: Box) -> Box:
    """A box that is relative to the start of another, as an absolute one."""
    return tuple((start + a, start + b) for (start, _), (a, b) in zip(outer, box, strict=True))


def _relative(box: Box, outer: Box) -> Box:
    return tuple((a - start, b - start) for (a, b), (start, _) in zip(box, outer, strict=True))


def _common(one: Box, other: Box) -> Box:
    return tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def _boxes_of_rows(leading: Shape, start: int, stop: int) -> Iterator[Box]:
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
        for rest in _boxes_of_rows(leading[1:], start - first * inner, stop - first * inner):
            yield ((first, first + 1), *rest)
        return
    whole_from, whole_to = -(-start // inner), stop // inner
    if first < whole_from:
        for rest in _boxes_of_rows(leading[1:], start - first * inner, inner):
            yield ((first, first + 1), *rest)
    if whole_from < whole_to:
        yield ((whole_from, whole_to), *((0, size) for size in leading[1:]))
    if whole_to <= last:
        for rest in _boxes_of_rows(leading[1:], 0, stop - last * inner):
            yield ((last, last + 1), *rest)


def _runs_of_rows(leading: Shape, box: Box) -> Iterator[tuple[int, int]]:
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
class _SameEntries:
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


def _grouped(inner: Shape, outer: Shape) -> tuple[_SameEntries, ...]:
    """The smallest groups of axes that two shapes of the same entries have in common, in their order."""
    groups: list[_SameEntries] = []
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


def _group(inner: Shape, outer: Shape, ours: range, theirs: range) -> _SameEntries:
    large = [axis for axis in ours if inner[axis] != 1], [axis for axis in theirs if outer[axis] != 1]
    is_axis = len(large[0]) <= 1 and len(large[1]) <= 1
    place = large[1][0] - theirs.start if large[1] else 0
    return _SameEntries(tuple(ours), tuple(theirs), is_axis, place)
