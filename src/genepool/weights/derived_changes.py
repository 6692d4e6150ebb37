"""Changes made of other changes: a part of one, one times a factor, the sum of several.

They read what they are made of block by block. Masks, in `genepool.skills`, are parts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.change import Change
from genepool.weights.control import joined_control
from genepool.weights.encodings import Encoding, Entry
from genepool.weights.encodings.low_rank import Product
from genepool.weights.header import Header

if TYPE_CHECKING:
    import torch


class Derived(Change):
    """A change made of one other: of the same tensors, base and origin."""

    def __init__(self, inner: Change) -> None:
        self.inner, self.name, self.base, self.control = inner, inner.name, inner.base, inner.control

    @cached_property
    def header(self) -> Header:
        return self.inner.header

    def names(self) -> tuple[str, ...]:
        return self.inner.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def moves(self, name: str) -> bool:
        return self.inner.moves(name)

    def identity(self) -> dict[str, Any]:
        return self.inner.identity()


class OfSomeTensors(Derived):
    """Another change in some of its tensors; the others stay as in the base.

    Args:
        inner: the change.
        names: the tensors.
    """

    def __init__(self, inner: Change, names: Collection[str]) -> None:
        super().__init__(inner)
        self._names = tuple(name for name in inner.names() if name in names)

    def names(self) -> tuple[str, ...]:
        return self._names

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.inner.rows(name, start, stop)

    def factors(self, name: str) -> Product | None:
        return self.inner.factors(name)

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        return self.inner.stored(name)


class Scaled(Derived):
    """Another change times a factor. It stays in the form it is stored in, and nothing is lost.

    Args:
        inner: the change.
        factor: what it is multiplied by.
    """

    def __init__(self, inner: Change, factor: float) -> None:
        super().__init__(inner)
        self.factor = factor

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.inner.rows(name, start, stop) * self.factor

    def factors(self, name: str) -> Product | None:
        found = self.inner.factors(name)
        return None if found is None else found._replace(factor=self.factor * found.factor)

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        found = self.inner.stored(name)
        if found is None:
            return None
        encoding, entry = found
        return encoding, encoding.scaled(entry, self.factor)


class Sum(Change):
    """Several changes of one base, added up.

    Args:
        parts: the changes, at least one.

    Raises:
        InputError: they are of several bases, or give one tensor several shapes.
    """

    def __init__(self, parts: Sequence[Change]) -> None:
        first = parts[0]
        self.parts, self.base = parts, first.base
        self.name = " + ".join(part.name for part in parts)
        for part in parts:
            self.control = joined_control(self.control, part.control, part.name)
        for part in parts[1:]:
            if part.header.head != first.header.head:
                raise InputError(
                    f"carries another head of classes than {first.name}, or one of the two carries none",
                    where=part.name,
                    fix="Sum skills of one head, or put each on its base by itself",
                )
            if part.header.base_fingerprint != first.header.base_fingerprint:
                raise InputError(
                    f"has the base {part.header.base_name}, and {first.name} has {first.header.base_name}",
                    where=part.name,
                    fix="Sum skills of one base",
                )
        self._holders: dict[str, list[Change]] = {}
        for part in parts:
            for name in part.names():
                held = self._holders.setdefault(name, [])
                if held and held[0].shape(name) != part.shape(name):
                    raise InputError(
                        "has another shape than in the first skill",
                        where=f"{part.name}:{name}",
                        fix="Name skills of one base",
                    )
                held.append(part)

    @cached_property
    def header(self) -> Header:
        first = self.parts[0].header
        control = {} if self.control is None else self.control.to_dict()
        return Header(first.base_fingerprint, first.base_name, head=first.head, control=control)

    def names(self) -> tuple[str, ...]:
        return tuple(self._holders)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holders[name][0].shape(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        first, *others = self._holders[name]
        total = first.rows(name, start, stop)
        for other in others:
            total = total + other.rows(name, start, stop)
        return total

    def moves(self, name: str) -> bool:
        return any(part.moves(name) for part in self._holders[name])

    def factors(self, name: str) -> Product | None:
        """Products are added by putting their factors side by side, where that takes no more than the matrix."""
        import torch

        holders = self._holders[name]
        if len(holders) == 1:
            return holders[0].factors(name)
        products = [found for part in holders if (found := part.factors(name)) is not None]
        if len(products) < len(holders):
            return None
        rank = sum(found.left.shape[1] for found in products)
        rows, columns = self.matrix(name)
        if rank * (rows + columns) > rows * columns:
            return None
        lefts = [found.left.float() * found.factor for found in products]
        return Product(torch.cat(lefts, 1), torch.cat([found.right.float() for found in products]))

    def stored(self, name: str) -> tuple[Encoding, Entry] | None:
        holders = self._holders[name]
        return holders[0].stored(name) if len(holders) == 1 else super().stored(name)

    def identity(self) -> dict[str, Any]:
        found: dict[str, list[Any]] = {}
        for part in self.parts:
            for key, values in part.identity().items():
                found.setdefault(key, []).extend(values)
        return found
