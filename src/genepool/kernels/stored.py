"""Task vectors as files store them: counted and merged from bits to bits, each in one compiled loop.

The functions of `election`, `brackets` and `random_draws` take float32 vectors that somebody made first. Where files
hold bfloat16 or float32 as they are, `StoredVectors` does the same with their bits, and no vector longer than a run is
ever made. Merging blocks by `genepool.merging.stored_arrays` uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import float32_array

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class NotFinite(Exception):
    """A difference is NaN or infinite, or a result is too large; which, the way through tensors says."""


@dataclass(frozen=True)
class StoredVectors:
    """The rows of k models and of their base as bits, and what a random drop leaves of their differences.

    Attributes:
        rows: `(k, n)`, uint16 for bfloat16 or uint32 for float32.
        base: `(n,)` of that type.
        chances: probability that an entry of each vector stays; None where nothing is dropped.
        keys: of each vector's stream of draws; see `genepool.kernels.random_draws`.
        offset: the number in the streams of the first entry.
        marks: `(k, m)` uint8: a bit for each entry, 0 where it was dropped, in place of draws; None where there are
            none.
        mark: the number of the bit of the first entry.
    """

    rows: Array
    base: Array
    chances: Sequence[float] | None = None
    keys: Sequence[int] = ()
    offset: int = 0
    marks: Array | None = None
    mark: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def dropped(self, chances: Sequence[float], keys: Sequence[int], offset: int) -> StoredVectors:
        """The same after a random drop."""
        return replace(self, chances=chances, keys=keys, offset=offset)

    def marked(self, marks: Array, mark: int) -> StoredVectors:
        """The same without the entries whose bits are 0."""
        return replace(self, marks=marks, mark=mark)

    def count(self, vector: int, lows: Array, highs: Array, counts: Array, kept: Array, ends: Array) -> None:
        """Counts one vector's magnitudes around brackets, as `compiled_brackets.count_brackets` does.

        Raises:
            NotFinite: one of its differences is not.
        """
        from genepool.kernels import compiled_stored

        chances, keys, _ = self._drops()
        part = slice(vector, vector + 1)
        if not compiled_stored.count(
            self.rows[vector], self.base, chances[part], keys[part], self.offset, lows, highs, counts, kept, ends
        ):
            raise NotFinite

    def count_ties(self, vector: int, value: float, columns: int) -> Array:
        """How many entries of one vector have a magnitude, in each run of `columns` entries; int64.

        Raises:
            NotFinite: one of its differences is not.
        """
        import numpy as np

        from genepool.kernels import compiled_stored

        counts = np.empty(self.base.size // columns, np.int64)
        chances, keys, _ = self._drops()
        part = slice(vector, vector + 1)
        bits = int(np.float32(value).view(np.int32))
        if not compiled_stored.count_ties(
            self.rows[vector], self.base, chances[part], keys[part], self.offset, bits, columns, counts
        ):
            raise NotFinite
        return counts

    def l1_norms(self, low: Sequence[float], high: Sequence[float]) -> Array:
        """L1 norms of the task vectors, and of what a random drop and these limits leave of them; `(2, k)` float64.

        Raises:
            NotFinite: a difference is not.
        """
        import numpy as np

        from genepool.kernels import compiled_stored

        norms = np.empty((2, len(self)))
        chances, keys, _ = self._drops()
        lows, highs = float32_array(low), float32_array(high)
        if not compiled_stored.l1_norms(self.rows, self.base, chances, keys, self.offset, lows, highs, norms):
            raise NotFinite
        return norms

    def balance_of_votes(self, factors: Sequence[float], low: Sequence[float], high: Sequence[float]) -> int:
        """As `election.balance_of_votes`.

        Raises:
            NotFinite: a difference is not.
        """
        from genepool.kernels import compiled_stored

        found, finite = compiled_stored.balance_of_votes(
            self.rows, self.base, *self._drops(), self.offset, self.mark, float32_array(low), float32_array(high),
            float32_array(factors),
        )  # fmt: skip
        if not finite:
            raise NotFinite
        return int(found)

    def merge(
        self,
        weights: Sequence[float],
        out: Array,
        *,
        elects: bool,
        scales: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        zero_sign: float = 1.0,
        normalize: bool = False,
        scale: float = 1.0,
    ) -> None:
        """The base plus `scale` times the vectors' sum, or what an election leaves of it, as it is stored.

        Args:
            weights: one for each vector; see `election.elect`.
            out: `(n,)` uint16 or uint32, written into.
            elects: elect a sign for each entry and add up what agrees.
            scales: a further factor of each vector.
            low, high: the smallest and the largest magnitude of each vector that takes part.
            zero_sign: as for `election.elect`.
            normalize: divide by the weights: of what agrees, or of all vectors where nothing is elected, unless their
                sum vanishes.
            scale: of the sum.

        Raises:
            NotFinite: a difference is not, or a result is too large for its type.
        """
        from genepool.kernels import compiled_stored

        factors = [weight * own for weight, own in zip(weights, scales, strict=True)]
        divided = normalize and not elects and abs(sum(weights)) > 1e-8
        finite = compiled_stored.merge(
            self.rows, self.base, *self._drops(), self.offset, self.mark, float32_array(low), float32_array(high),
            float32_array(factors), float32_array(weights), elects, zero_sign, normalize,
            float(sum(weights)) if divided else 1.0, scale, out,
        )  # fmt: skip
        if not finite:
            raise NotFinite

    def _drops(self) -> tuple[Array, Array, Array]:
        import numpy as np

        k = len(self)
        chances = float32_array([1.0] * k if self.chances is None else self.chances)
        keys = np.array(self.keys if self.keys else [0] * k, np.uint64)
        return chances, keys, np.empty((k, 0), np.uint8) if self.marks is None else self.marks


def no_limits(k: int) -> tuple[list[float], list[float]]:
    """Limits within which every magnitude of k vectors is."""
    return [0.0] * k, [math.inf] * k
