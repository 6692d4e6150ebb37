"""Surveys that keep a share exactly: which of the entries that tie with a limit stay, by their place.

They come after the limits themselves, which `genepool.merging.survey.Magnitudes` finds. Methods that trim use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.kernels.tie_cut import CUT, DROPPED, TieCut
from genepool.merging.group import TensorGroup
from genepool.merging.survey import Chain, Magnitudes, Survey, Thresholds, deltas_of, stored_of

if TYPE_CHECKING:
    from genepool.kernels.stored import StoredVectors

Limits = tuple[list[float], list[float]]


class TiePlaces(Survey):
    """Which entries that tie with a limit of `Magnitudes` are kept, by their place; only where not all of them are.

    Args:
        magnitudes: finished when this begins. Of each vector the first magnitude is the smallest that is kept, the
            second, if there is one, the largest.
        vectors, stored: as for `Magnitudes`.
    """

    def __init__(
        self,
        magnitudes: Magnitudes,
        vectors: Callable[[TensorGroup], Any] | None = None,
        stored: Callable[[TensorGroup], StoredVectors | None] | None = None,
    ) -> None:
        self._magnitudes, self._vectors = magnitudes, vectors or deltas_of
        self._stored = stored or (stored_of if vectors is None else lambda _: None)

    @cached_property
    def _cuts(self) -> list[tuple[int, TieCut]]:
        """(number of the vector, what is kept of the ties with one of its limits), where some are not."""
        found = []
        for number, selection in enumerate(self._magnitudes.selections):
            limits = list(zip(selection.values, selection.ties, selection.places, strict=True))
            if not limits:
                continue
            # Of the ties with the smallest the first ones stay, of those with the largest the last ones.
            ranges = {limits[0][0]: (0, limits[0][2])}
            for value, ties, place in limits[1:]:
                ranges[value] = (place - 1, ranges.get(value, (0, ties))[1])
            every = {value: ties for value, ties, _ in limits}
            found += [
                (number, TieCut(value, first, last))
                for value, (first, last) in ranges.items()
                if first > 0 or last < every[value]
            ]
        return found

    def wanted(self, number: int) -> bool:
        return bool(self._cuts)

    def begin(self, number: int) -> Any:
        return []

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        vectors = self._vectors(group)
        partial.append((group.name, [cut.ties(vectors[vector]) for vector, cut in self._cuts]))

    def observe_stored(self, number: int, group: TensorGroup, partial: Any) -> bool:
        if (stored := self._stored(group)) is None:
            return False
        partial.append((group.name, [stored.count_ties(i, cut.value, group.rows[1]) for i, cut in self._cuts]))
        return True

    def fold(self, number: int, partial: Any) -> None:
        for name, counts in partial:
            for (_, cut), ties in zip(self._cuts, counts, strict=True):
                cut.add(name, ties)

    def finish(self, number: int) -> None:
        for _, cut in self._cuts:
            cut.finish()

    def breaks(self, group: TensorGroup) -> list[int]:
        """The rows of a block where `drop` leaves other ties than in the row before."""
        import numpy as np

        kept = [cut.kept(group.name, group.start, group.stop) for _, cut in self._cuts]
        places = [np.flatnonzero(np.diff(rows)) for rows in kept]
        return sorted({group.start + 1 + place for found in places for place in found.tolist()})

    def limited(self, group: TensorGroup, low: Sequence[float], high: Sequence[float]) -> Limits | None:
        """Limits that leave of a block what `drop` and the magnitudes' own do; None where no limits do.

        Args:
            group: a block without breaks.
            low, high: the limits found, of every vector.
        """
        import numpy as np

        least, most = list(low), list(high)
        for vector, cut in self._cuts:
            kept = int(cut.kept(group.name, group.start, group.start + 1)[0])
            if kept == CUT:
                return None
            if kept == DROPPED and low[vector] == high[vector]:
                least[vector] = most[vector] = math.inf
            elif kept == DROPPED and cut.value == low[vector]:
                least[vector] = float(np.nextafter(np.float32(cut.value), np.float32(np.inf)))
            elif kept == DROPPED:
                most[vector] = float(np.nextafter(np.float32(cut.value), np.float32(0)))
        for vector in {vector for vector, _ in self._cuts}:
            # Two limits next to each other, both dropped: no number is between them.
            if least[vector] > most[vector]:
                least[vector] = most[vector] = math.inf
        return least, most

    def drop(self, group: TensorGroup, vectors: Any) -> Any:
        """The vectors' entries in a block, `(vectors, rows, columns)`, those that are one too many set to zero."""
        for vector, cut in self._cuts:
            cut.drop(group.name, group.start, vectors[vector])
        return vectors


class ExactThresholds(Chain):
    """`Thresholds` for which exactly k entries are kept: of those that tie with the k-th, the first by place.

    Args:
        counts, vectors, numel: as for `Thresholds`.
    """

    def __init__(
        self, counts: Sequence[int | None], vectors: Callable[[TensorGroup], Any] | None = None, numel: int = 0
    ) -> None:
        self._thresholds = Thresholds(counts, vectors, numel)
        self._places = TiePlaces(self._thresholds, vectors)
        super().__init__([self._thresholds, self._places])

    @property
    def values(self) -> list[float]:
        """The smallest kept magnitude of each vector: 0 where all is kept, infinity where nothing is."""
        return self._thresholds.values

    def drop(self, group: TensorGroup, vectors: Any) -> Any:
        """The vectors' entries in a block, the ties that are not kept set to zero, in place."""
        return self._places.drop(group, vectors)
