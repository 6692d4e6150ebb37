"""Masks: changes of which only some entries stay, the others being zero.

The largest entries, entries drawn by chance, and those that scores name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from genepool import progress, seeding
from genepool.errors import InputError
from genepool.kernels.random_draws import drop
from genepool.kernels.selection import MagnitudeSelection, keep_count
from genepool.kernels.tie_cut import TieCut
from genepool.weights import Change, Derived
from genepool.weights.change import block_rows

if TYPE_CHECKING:
    import torch


class TopK(Derived):
    """The entries of largest magnitude; of those that tie with the last one, the first by their place.

    Args:
        inner: the change.
        density: share of the entries that stay, over 0 and at most 1.
        scope: choose within each "tensor" (SeleKT's authors do) or over the whole "model".

    Raises:
        InputError: the density is out of its range.
    """

    def __init__(self, inner: Change, density: float, scope: str = "model") -> None:
        super().__init__(inner)
        _check_density(density)
        names = inner.names()
        groups = [names] if scope == "model" else [(name,) for name in names]
        entries = sum(inner.numel(name) for name in names)
        self._thresholds: dict[str, float] = {}
        self._cuts: dict[str, TieCut] = {}
        with progress.bar(f"choosing the largest changes of {inner.name}", 2 * entries, "entries") as bar:
            for group in groups:
                threshold, cut = self._threshold(group, density, bar)
                self._thresholds.update(dict.fromkeys(group, threshold))
                self._cuts.update(dict.fromkeys(group, cut) if cut else {})

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self.inner.rows(name, start, stop)
        kept = rows.masked_fill(rows.abs() < self._thresholds[name], 0.0)
        if (cut := self._cuts.get(name)) is not None:
            cut.drop(name, start, kept)
        return kept

    def _threshold(self, group: Iterable[str], density: float, bar: progress.Bar) -> tuple[float, TieCut | None]:
        """The smallest magnitude that stays, in two passes over the tensors of a group.

        Where too many entries have just this magnitude, a third pass finds which of them stay.
        """
        selection = MagnitudeSelection(keep_count(density, sum(self.inner.numel(name) for name in group)))
        for number in range(selection.passes):
            for name in group:
                counts = selection.begin(number)
                for start, stop in block_rows(*self.inner.matrix(name)):
                    rows = self.inner.rows(name, start, stop)
                    selection.observe(number, rows, counts)
                    bar.advance(rows.numel())
                selection.fold(counts)
            selection.finish(number)
        if selection.places[0] == selection.ties[0]:
            return selection.threshold, None
        cut = TieCut(selection.threshold, 0, selection.places[0])
        for name in group:
            for start, stop in block_rows(*self.inner.matrix(name)):
                cut.add(name, cut.ties(self.inner.rows(name, start, stop)))
        cut.finish()
        return selection.threshold, cut


class Dare(Derived):
    """DARE: each entry is dropped with a probability, and the others make up for it (Yu et al., arXiv:2311.03099).

    Args:
        inner: the change.
        density: probability that an entry stays.
        rescale: divide what stays by the density, so that the mean stays.
        seed: with the tensor's name and the entry's place, it decides which.

    Raises:
        InputError: the density is out of its range.
    """

    def __init__(self, inner: Change, density: float, *, rescale: bool = True, seed: int = 0) -> None:
        super().__init__(inner)
        _check_density(density)
        self.density, self.rescale, self.seed = density, rescale, seed

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        import torch

        rows = self.inner.rows(name, start, stop).clone(memory_format=torch.contiguous_format)
        drop(rows, self.density, seeding.derive(self.seed, "drop", name), start * self.matrix(name)[1])
        return rows.div_(self.density) if self.rescale else rows


class Graft(Derived):
    """The entries of the highest scores (grafting: Panigrahi et al., arXiv:2302.06600).

    Args:
        inner: the change.
        scores: tensor -> score of every entry, `(rows, columns)`; tensors without scores stay as the base has them.
        density: share of all entries of `inner` that stay.
    """

    def __init__(self, inner: Change, scores: Mapping[str, torch.Tensor], density: float) -> None:
        super().__init__(inner)
        self.scores = scores
        total = sum(inner.numel(name) for name in inner.names())
        selection = MagnitudeSelection(min(keep_count(density, total), sum(v.numel() for v in scores.values())))
        for number in range(selection.passes):
            for values in scores.values():
                counts = selection.begin(number)
                selection.observe(number, values, counts)
                selection.fold(counts)
            selection.finish(number)
        self._least = selection.threshold

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.inner.names() if name in self.scores)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.inner.rows(name, start, stop).masked_fill(self.scores[name][start:stop] < self._least, 0.0)

    def moves(self, name: str) -> bool:
        return bool((self.scores[name] >= self._least).any()) and self.inner.moves(name)


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise InputError(f"must be above 0 and at most 1, got {density:g}", where="--density", fix="Give another share")
