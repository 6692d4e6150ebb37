"""Task vectors trimmed to their largest entries, of which those of the elected sign stay: TIES without its sum.

What AdaMerging++ learns coefficients of (Yadav et al., arXiv:2306.01708, steps 1 and 2). Thresholds are exact, over all
tensors that a skill moves, by streaming passes. Uses `vectors` and the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool import progress
from genepool.composition.vectors import TaskVectors
from genepool.kernels.selection import Selection, keep_count
from genepool.weights import Change
from genepool.weights.change import block_rows

if TYPE_CHECKING:
    import torch


class TrimmedVectors:
    """The skills of one base, trimmed and agreeing in sign.

    Args:
        vectors: the skills.
        density: the share of its entries that each skill keeps, the largest. Tensors that it does not move are not
            counted: a fine-tune names them and its skill file does not, and both are to be trimmed alike.
    """

    def __init__(self, vectors: TaskVectors, density: float) -> None:
        self.vectors = vectors
        self._thresholds = _thresholds(vectors, density)
        # The blocks of all skills are made together, and asked for one skill after the other.
        self._last: tuple[tuple[str, int, int], torch.Tensor] | None = None

    def changes(self) -> list[Change]:
        """What is left of each skill."""
        return [_Trimmed(self, number) for number in range(len(self.vectors.changes))]

    def block(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Some rows of what is left of every skill that changes a tensor, `(holders, stop - start, columns)`."""
        import torch

        key = (name, start, stop)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        block = self.vectors.block(name, start, stop)
        limits = torch.tensor([self._thresholds[skill] for skill in self.vectors.holders(name)])
        trimmed = torch.where(block.abs() >= limits[:, None, None], block, 0.0)
        agreeing = torch.where(trimmed * trimmed.sum(0).sign() > 0, trimmed, 0.0)
        self._last = (key, agreeing)
        return agreeing


class _Trimmed(Change):
    """What is left of one skill."""

    def __init__(self, whole: TrimmedVectors, number: int) -> None:
        self._whole, self._number = whole, number
        inner = whole.vectors.changes[number]
        self.name, self.base = inner.name, inner.base
        self._names = tuple(name for name in whole.vectors.names if number in whole.vectors.holders(name))
        self._inner = inner

    def names(self) -> tuple[str, ...]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._whole.vectors.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        place = self._whole.vectors.holders(name).index(self._number)
        return self._whole.block(name, start, stop)[place]

    def identity(self) -> dict[str, object]:
        return self._inner.identity()


def _thresholds(vectors: TaskVectors, density: float) -> Sequence[float]:
    """The smallest magnitude that each skill keeps."""
    # How many entries are kept is known once the first pass has seen which tensors move.
    selections = [Selection([1]) for _ in vectors.changes]
    moved: list[set[str]] = [set() for _ in vectors.changes]
    passes = Selection.passes
    with progress.bar("looking for the largest entries", passes * len(vectors.names), "tensors") as bar:
        for number in range(passes):
            counts = [selection.begin(number) for selection in selections]
            for name in vectors.names:
                for start, stop in block_rows(*vectors.matrix(name)):
                    block = vectors.block(name, start, stop)
                    for skill, rows in zip(vectors.holders(name), block, strict=True):
                        selections[skill].observe(number, rows, counts[skill])
                        if number == 0 and name not in moved[skill] and bool(rows.any()):
                            moved[skill].add(name)
                bar.advance()
            for skill, (selection, count) in enumerate(zip(selections, counts, strict=True)):
                if number == 0:
                    size = sum(vectors.base.info(name).numel for name in moved[skill])
                    selection.rank(0, keep_count(density, size))
                selection.fold(count)
                selection.finish(number)
    # Entries that are zero are never kept, so nothing moves that the skill does not.
    return [max(selection.values[0], 1e-45) for selection in selections]
