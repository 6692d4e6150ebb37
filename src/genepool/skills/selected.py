"""Changes of which only some entries stay: the largest, or some drawn by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool import progress, seeding
from genepool.errors import InputError
from genepool.kernels.random_draws import drop
from genepool.kernels.selection import MagnitudeSelection, keep_count
from genepool.skills.changes import Changes, block_rows

if TYPE_CHECKING:
    import torch


class Derived(Changes):
    """Another's changes, in part."""

    def __init__(self, inner: Changes) -> None:
        self.inner = inner
        self.name, self.header, self.base = inner.name, inner.header, inner.base

    def names(self) -> tuple[str, ...]:
        return self.inner.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def moves(self, name: str) -> bool:
        return self.inner.moves(name)

    def identity(self) -> dict[str, list[str]]:
        return self.inner.identity()


class Largest(Derived):
    """The entries of largest magnitude; the others are zero. Entries that tie with the last one stay too.

    Args:
        inner: the changes.
        density: share of the entries that stay, over 0 and at most 1.
        scope: choose within each "tensor" (SeleKT's authors do) or over the whole "model".
    """

    def __init__(self, inner: Changes, density: float, scope: str = "model") -> None:
        super().__init__(inner)
        if not 0 < density <= 1:
            raise InputError(f"a density of {density:g}", where="--density", fix="Give a share over 0 and at most 1")
        names = inner.names()
        groups = [names] if scope == "model" else [(name,) for name in names]
        entries = sum(_numel(inner, name) for name in names)
        self._thresholds: dict[str, float] = {}
        with progress.bar(f"choosing the largest changes of {inner.name}", 2 * entries, "entries") as bar:
            for group in groups:
                selection = MagnitudeSelection(keep_count(density, sum(_numel(inner, name) for name in group)))
                for number in range(selection.passes):
                    for name in group:
                        counts = selection.begin(number)
                        for start, stop in block_rows(*inner.matrix(name)):
                            rows = inner.change_rows(name, start, stop)
                            selection.observe(number, rows, counts)
                            bar.advance(rows.numel())
                        selection.fold(counts)
                    selection.finish(number)
                self._thresholds.update(dict.fromkeys(group, selection.threshold))

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self.inner.change_rows(name, start, stop)
        return rows.masked_fill_(rows.abs() < self._thresholds[name], 0.0)


class Dropped(Derived):
    """DARE: each entry is dropped with a probability, and the others make up for it (Yu et al., arXiv:2311.03099).

    Args:
        inner: the changes.
        density: probability that an entry stays.
        rescale: divide what stays by the density, so that the mean stays.
        seed: with the tensor's name and the entry's place, it decides which.
    """

    def __init__(self, inner: Changes, density: float, *, rescale: bool = True, seed: int = 0) -> None:
        super().__init__(inner)
        if not 0 < density <= 1:
            raise InputError(f"a density of {density:g}", where="--density", fix="Give a share over 0 and at most 1")
        self.density, self.rescale, self.seed = density, rescale, seed

    def change_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self.inner.change_rows(name, start, stop).contiguous()
        drop(rows, self.density, seeding.derive(self.seed, "drop", name), start * self.matrix(name)[1])
        return rows.div_(self.density) if self.rescale else rows


def _numel(changes: Changes, name: str) -> int:
    rows, columns = changes.matrix(name)
    return rows * columns
