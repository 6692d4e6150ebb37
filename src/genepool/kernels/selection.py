"""Exact order statistics of vectors that are streamed past: two passes that count bits, no sorting.

`keep_count` says how many entries a density keeps; `MagnitudeSelection` finds the smallest of them, and `Selection`
values at any ranks, with memory that does not depend on the number of parameters.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.counting import count_magnitudes

if TYPE_CHECKING:
    import numpy as np

    from genepool.kernels.brackets import Brackets

# Buckets that are counted together first; a power of two.
_RUN = 256
# Histograms that nobody needs any more, by shape: fresh memory costs a search over small models a tenth of a merge.
_spare: dict[tuple[int, ...], list[np.ndarray[Any, Any]]] = {}
_MOST_SPARE = 16


def keep_count(density: float, numel: int) -> int:
    """How many of `numel` entries a density keeps: the whole part, at least one unless the density is zero."""
    return 0 if density <= 0 or numel == 0 else max(1, min(numel, int(density * numel)))


class Selection:
    """Order statistics of a vector that is streamed past twice: exact values at given ranks, from the largest down.

    In each of two passes: `counts = begin(pass)`, `observe(pass, part, counts)` for parts of any sizes in any order (or
    a kernel that counts what it computes), `fold(counts)`, and `finish(pass)`. Then `values` is exact.

    Args:
        ranks: 1 for the largest value; infinity is the answer at rank 0.
        signed: order by value; by magnitude otherwise.
    """

    passes = 2

    def __init__(self, ranks: Sequence[int], signed: bool = False) -> None:
        self.values = [float("inf")] * len(ranks)
        self.buckets = [0] * len(ranks)
        # Of each value found: how many entries have it, and the asked rank among them, from 1.
        self.ties, self.places = [0] * len(ranks), [0] * len(ranks)
        self._ranks, self._left, self._signed = list(ranks), list(ranks), signed
        # Upper 16 bits first: of all 32, or of the 31 that a magnitude has.
        self._low_bits = 16 if signed else 15
        self._counts: np.ndarray[Any, Any] | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """What is asked for."""
        return tuple(self._ranks)

    @property
    def signed(self) -> bool:
        """Whether values are ordered by value, not by magnitude."""
        return self._signed

    @property
    def is_known(self) -> bool:
        """Whether every value is known; before the last pass only where brackets found them."""
        return all(rank <= 0 or ties > 0 for rank, ties in zip(self._ranks, self.ties, strict=True))

    def take(self, brackets: Brackets | None) -> None:
        """Takes what brackets of these ranks found, which spares both passes if they found everything."""
        if brackets is None:
            return
        found = [brackets.found(i, rank) if rank > 0 else None for i, rank in enumerate(self._ranks)]
        if all(one is not None or rank <= 0 for one, rank in zip(found, self._ranks, strict=True)):
            for i, one in enumerate(found):
                if one is not None:
                    self.values[i], self.ties[i], self.places[i] = one

    def rank(self, place: int, rank: int) -> None:
        """Asks for another rank, while the first pass is not finished; the count of entries may decide it."""
        self._ranks[place] = self._left[place] = rank

    def begin(self, number: int) -> np.ndarray[Any, Any]:
        """An empty histogram for pass `number`: `(1, 2^16)`, then one row of lower bits for each rank."""
        import numpy as np

        shape = (len(self._ranks), 1 << self._low_bits) if number else (1, 1 << 16)
        try:
            counts = _spare[shape].pop()
        except (KeyError, IndexError):
            return np.zeros(shape, np.int64)
        counts.fill(0)
        return counts

    def observe(self, number: int, values: Any, counts: np.ndarray[Any, Any]) -> None:
        """Counts one part of the vector by magnitude; float32, any shape, no NaN, an array or a tensor."""
        if number == 0 and any(rank > 0 for rank in self._ranks):
            count_magnitudes(values, counts[0])
        elif number:
            for rank, bucket, row in zip(self._ranks, self.buckets, counts, strict=True):
                if rank > 0:
                    count_magnitudes(values, row, bucket)

    def fold(self, counts: np.ndarray[Any, Any]) -> None:
        """Adds one histogram to the whole."""
        if self._counts is None:
            self._counts = counts
        else:
            self._counts += counts
            _give_back(counts)

    def finish(self, number: int) -> None:
        """Ends one pass."""
        counts, self._counts = self._counts, None
        if counts is None:
            return
        for i, rank in enumerate(self._ranks):
            if rank <= 0:
                continue
            if number == 0:
                self.buckets[i], self._left[i] = self._place(counts[0], rank, upper=True)
            else:
                negative = self._signed and self.buckets[i] >= 1 << 15
                row = counts[i][::-1] if negative else counts[i]
                low, self.places[i] = self._place(row, self._left[i], upper=False)
                self.ties[i] = int(row[low])
                low = (1 << self._low_bits) - 1 - low if negative else low
                self.values[i] = _as_float((self.buckets[i] << self._low_bits) | low)
        _give_back(counts)

    def _place(self, counts: np.ndarray[Any, Any], rank: int, upper: bool) -> tuple[int, int]:
        """The bucket that holds the value at `rank`, and its rank among the values there."""
        half = 1 << 15
        if upper and self._signed:
            import numpy as np

            # Bits of negative numbers grow with their magnitudes: their buckets come first, in reverse.
            counts = np.concatenate([counts[half:][::-1], counts[:half]])
        # Counting from the largest bucket down, the first whose running total reaches the rank holds it. First runs of
        # buckets are counted down, then those of one run: a running total of all of them takes longer than the counting
        # of a small model.
        runs = counts.reshape(-1, _RUN)
        run, left = _reached(runs.sum(1), rank)
        bucket, left = _reached(runs[run], left)
        bucket += run * _RUN
        if upper and self._signed:
            bucket = bucket - half if bucket >= half else 2 * half - 1 - bucket
        return bucket, left


class MagnitudeSelection(Selection):
    """The k-th largest magnitude; infinity for k = 0."""

    def __init__(self, k: int) -> None:
        super().__init__([k])
        self.k = k

    @property
    def threshold(self) -> float:
        """The k-th largest magnitude, once both passes are over."""
        return self.values[0]


def _reached(counts: np.ndarray[Any, Any], rank: int) -> tuple[int, int]:
    """The last place at which the counts from there to the end reach a rank, and the rank that is left there."""
    totals = counts[::-1].cumsum()
    place = int(totals.searchsorted(rank))
    found = counts.size - 1 - place
    return found, rank - int(totals[place] - counts[found])


def _as_float(bits: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return value


def _give_back(counts: np.ndarray[Any, Any]) -> None:
    spare = _spare.setdefault(counts.shape, [])
    if len(spare) < _MOST_SPARE:
        spare.append(counts)
