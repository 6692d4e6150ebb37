"""Task vectors, block by block: what every skill changes of a tensor, held in memory or read from the disk each time.

Whatever mixes skills reads them here. A skill that changes a tensor by a product of two factors is held as those
factors. `residence` decides what is held; the numbers are the same either way. Uses weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights import Change, TensorInfo, Weights
from genepool.weights.change import block_rows
from genepool.weights.encodings.low_rank import Product

if TYPE_CHECKING:
    import torch


# Entries of float32 in a cache line, at which torch begins what it allocates.
_ALIGNED = 16


class TaskVectors:
    """The changes of some skills to one base.

    Args:
        base: the base, in the layout of `changes`.
        changes: one for each skill.
        held: which skills are kept in memory, by number; the others are read from the disk for every block.

    Attributes:
        names: the tensors that any of them may change, in the base's order.

    Raises:
        InputError: a change gives a tensor another shape than the base, or one that the base lacks.
    """

    def __init__(self, base: Weights, changes: Sequence[Change], held: Collection[int] = ()) -> None:
        self.base, self.changes = base, tuple(changes)
        self._own = [_by_base_name(base, change) for change in changes]
        moved = set().union(*self._own)
        self.names = tuple(name for name in base.names() if name in moved)
        self._holders = {name: [i for i, own in enumerate(self._own) if name in own] for name in self.names}
        self._products: dict[tuple[int, str], Product] = {}
        self._dense: dict[tuple[int, str], torch.Tensor] = {}
        self._stacks: dict[str, torch.Tensor] = {}
        self._room: torch.Tensor | None = None
        self._hold(held)

    def holders(self, name: str) -> list[int]:
        """Numbers of the skills that change a tensor, in order."""
        return self._holders[name]

    def matrix(self, name: str) -> tuple[int, int]:
        """(rows, columns) of a tensor as a matrix."""
        return self.base.info(name).matrix

    def block(self, name: str, start: int, stop: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """Rows `start` to `stop` of every holder's change, `(holders, stop - start, columns)` float32.

        Never write into it.

        Args:
            name: the tensor.
            start, stop: which rows.
            out: float32 entries, as many as there are, that a block which is not held is written to; new ones when
                None.
        """
        import torch

        if name in self._stacks:
            return self._stacks[name][:, start:stop].float()
        # Fine-tunes are differences to one base, whose rows are read once for all of them.
        base_rows = cache(lambda: self.base.read_rows(name, start, stop))
        shape = (len(self._holders[name]), stop - start, self.matrix(name)[1])
        found = torch.empty(shape) if out is None else out.view(shape)
        for place, skill in enumerate(self._holders[name]):
            held = self._held_rows(skill, name, start, stop)
            if held is not None:
                found[place] = held
                continue
            change = self.changes[skill]
            shared = base_rows if change.base is self.base else None
            change.rows_into(self._own[skill][name], start, stop, found[place], shared)
        return found

    def blocks(self, name: str, limit: int = 0) -> TensorBlocks:
        """All blocks of a tensor, to be gone through as often as is wanted, of one tensor at a time.

        A block is there until the next one is asked for.

        Args:
            name: the tensor.
            limit: bytes; where all blocks take no more, they are kept after the first time.
        """
        return TensorBlocks(self, name, limit)

    def room(self, entries: int) -> torch.Tensor:
        """Room for blocks, float32: the same one for all who ask, so that memory does not grow by what was freed."""
        import torch

        if self._room is None or len(self._room) < entries:
            self._room = None
            self._room = torch.empty(entries)
        return self._room

    def factors(self, skill: int, name: str) -> Product | None:
        """A skill's change of a tensor as a product of two factors; None where it is none."""
        held = self._products.get((skill, name))
        return held if held is not None else self.changes[skill].factors(self._own[skill][name])

    def _held_rows(self, skill: int, name: str, start: int, stop: int) -> torch.Tensor | None:
        if (product := self._products.get((skill, name))) is not None:
            return (product.left[start:stop].float() @ product.right.float()) * product.factor
        if (dense := self._dense.get((skill, name))) is not None:
            return dense[start:stop].float()
        return None

    def _hold(self, held: Collection[int]) -> None:
        import torch

        for name in self.names:
            kind = held_dtype(self.base.info(name))
            for skill in sorted(set(held) & set(self._holders[name])):
                own = self._own[skill][name]
                product = self.changes[skill].factors(own)
                if product is not None:
                    self._products[skill, name] = product
                else:
                    self._dense[skill, name] = self.changes[skill].whole(own).to(kind)
            dense = [self._dense.get((skill, name)) for skill in self._holders[name]]
            if all(one is not None for one in dense):
                # One product with all of them is far faster than one for each, where tensors are small.
                self._stacks[name] = torch.stack([one for one in dense if one is not None])
                for skill in self._holders[name]:
                    del self._dense[skill, name]


class TensorBlocks:
    """The blocks of one tensor: (start, stop, what `TaskVectors.block` gives).

    Args:
        vectors: the skills.
        name: the tensor.
        limit: bytes; where all blocks take no more, they are kept after the first time.
    """

    def __init__(self, vectors: TaskVectors, name: str, limit: int) -> None:
        self._vectors, self._name = vectors, name
        self._keep = block_bytes(vectors, name) <= limit
        self._kept: list[tuple[int, int, torch.Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        if self._kept is not None:
            return iter(self._kept)
        if not self._keep:
            return self._read()
        self._kept = list(self._read())
        return iter(self._kept)

    def _read(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        holders, (rows, columns) = len(self._vectors.holders(self._name)), self._vectors.matrix(self._name)
        spans = block_rows(rows, columns)
        # Each block has its own place where it is kept, and not one in a whole tensor: the same memory layout, aligned
        # alike, gives the same bits.
        sizes = [holders * (stop - start) * columns for start, stop in spans]
        places = list(accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0))
        room = self._vectors.room(places[-1] if self._keep else max(sizes, default=0))
        for (start, stop), size, place in zip(spans, sizes, places, strict=False):
            own = room[place if self._keep else 0 :][:size]
            yield start, stop, self._vectors.block(self._name, start, stop, own)


def block_bytes(vectors: TaskVectors, name: str) -> int:
    """Bytes that all blocks of a tensor take."""
    return 4 * vectors.base.info(name).numel * len(vectors.holders(name))


def held_dtype(info: TensorInfo) -> torch.dtype:
    """What a change of a tensor is held as: bfloat16 where the tensor itself has two bytes, else float32."""
    import torch

    return torch.bfloat16 if info.dtype in ("BF16", "F16") else torch.float32


def held_bytes(change: Change, base: Weights) -> int:
    """Bytes that a change takes in memory, from headers and factors alone."""
    total = 0
    for name, own in _by_base_name(base, change).items():
        product = change.factors(own)
        if product is not None:
            total += sum(one.numel() * one.element_size() for one in (product.left, product.right))
        else:
            total += change.numel(own) * held_dtype(base.info(name)).itemsize
    return total


def _by_base_name(base: Weights, change: Change) -> dict[str, str]:
    """The tensors of a change: what the base calls each -> what the change does."""
    aliases, found = base.aliases(), {}
    for own in change.names():
        name = aliases.get(own, own)
        if name not in base:
            raise InputError(
                f"changes the tensor {own}, which {base.name} does not have",
                where=change.name,
                fix="Name skills of this base",
            )
        if base.info(name).shape != tuple(change.shape(own)):
            raise InputError(
                f"changes {own} as {list(change.shape(own))}, and {base.name} has {list(base.info(name).shape)}",
                where=change.name,
                fix="Name skills of this base",
            )
        found[name] = own
    return found
