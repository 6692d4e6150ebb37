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

from genepool.weights.naming.boxes import (
    Box,
    SameEntries,
    Shape,
    boxes_of_rows,
    grouped,
    intersection,
    relative,
    runs_of_rows,
    within,
)

if TYPE_CHECKING:
    import torch

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
            self.read((*box, *last), rows).reshape(-1, columns) for box in boxes_of_rows(self.shape[:-1], start, stop)
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
        ranges = list(runs_of_rows(self.shape[:-1], leading))
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
        return self.inner.read(within(self.box, box), rows)


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
    def _groups(self) -> tuple[SameEntries, ...]:
        return grouped(self.inner.shape, self.shape)

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
            shared = intersection(place, box)
            part = piece.read(relative(shared, place), rows)
            if shared == box:
                return part
            found.append((relative(shared, box), part))
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
        return cut(view.inner, within(view.box, box))
    if isinstance(view, Permuted):
        inner: list[tuple[int, int]] = [(0, 0)] * len(box)
        for axis, span in zip(view.order, box, strict=True):
            inner[axis] = span
        return permuted(cut(view.inner, tuple(inner)), view.order)
    if isinstance(view, Joined):
        pieces = []
        for place, piece in view.overlapping(box):
            shared = intersection(place, box)
            pieces.append((relative(shared, box), cut(piece, relative(shared, place))))
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
