"""Which of the entries that tie with a limit are kept, by their place: so that a share is kept exactly.

Differences of bfloat16 checkpoints take few distinct values. A limit on magnitudes alone would keep all entries that
equal it: 12% of them where 5% were asked for. `Selection` says how many of them belong to the share; this says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# What is left of the ties of a row: all, none, or some.
KEPT, DROPPED, CUT = 0, 1, 2


class TieCut:
    """Of the entries of one magnitude, in the order of streamed matrices and of their places, a range is kept.

    Add the `ties` of all rows in order, then `finish`; after that `drop` works on any rows.

    Args:
        value: the magnitude.
        first, last: the range, from 0; `last` is not kept itself.
    """

    def __init__(self, value: float, first: int, last: int) -> None:
        self.value, self.first, self.last = value, first, last
        self._counts: dict[str, list[np.ndarray[Any, Any]]] = {}
        # Ties before each row, for matrices on the edge of the range; None where no tie is kept.
        self._before: dict[str, np.ndarray[Any, Any] | None] = {}

    def ties(self, rows: Any) -> np.ndarray[Any, Any]:
        """Entries of the magnitude in each row, `(rows,)` int64; the rows are an array or a tensor."""
        import numpy as np

        counts = (abs(rows) == self.value).sum(-1)
        found: np.ndarray[Any, Any] = counts if isinstance(counts, np.ndarray) else counts.cpu().numpy()
        return found

    def add(self, name: str, counts: np.ndarray[Any, Any]) -> None:
        """Takes in the `ties` of the next rows of a matrix."""
        self._counts.setdefault(name, []).append(counts)

    def finish(self) -> None:
        """Ends the counting."""
        import numpy as np

        seen = 0
        for name, counts in self._counts.items():
            sums = np.concatenate(counts).cumsum(dtype=np.int64)
            here = int(sums[-1]) if len(sums) else 0
            if here and not (seen >= self.first and seen + here <= self.last):
                outside = seen + here <= self.first or seen >= self.last
                self._before[name] = None if outside else np.concatenate([np.zeros(1, np.int64), sums]) + seen
            seen += here
        self._counts.clear()

    def kept(self, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        """What `drop` leaves of the ties of some rows of a matrix: `KEPT`, `DROPPED` or `CUT`, `(rows,)` int8."""
        import numpy as np

        if name not in self._before:
            return np.full(stop - start, KEPT, np.int8)
        edges = self._before[name]
        if edges is None:
            return np.full(stop - start, DROPPED, np.int8)
        before, after = edges[start:stop], edges[start + 1 : stop + 1]
        found = np.where((before >= self.first) & (after <= self.last), KEPT, CUT)
        # Rows without ties are as their neighbours.
        return np.where((after <= self.first) | (before >= self.last), DROPPED, found).astype(np.int8)

    def drop(self, name: str, start: int, rows: Any) -> None:
        """Sets the ties outside of the range to zero, in place.

        Args:
            name: of the matrix.
            start: the number of its first row here.
            rows: `(rows, columns)`, an array or a tensor.
        """
        import numpy as np

        if name not in self._before:
            return
        edges = self._before[name]
        if edges is None:
            rows[abs(rows) == self.value] = 0.0
            return
        before, after = edges[start : start + len(rows)], edges[start + 1 : start + 1 + len(rows)]
        outside = (after <= self.first) | (before >= self.last)
        for begin, end in _runs(outside):
            part = rows[begin:end]
            part[abs(part) == self.value] = 0.0
        cut = ~outside & ((before < self.first) | (after > self.last))
        for row in np.flatnonzero(cut).tolist():
            places = np.flatnonzero(np.asarray((abs(rows[row]) == self.value).tolist()))
            begin, end = (min(max(edge - int(before[row]), 0), len(places)) for edge in (self.first, self.last))
            rows[row, places[:begin].tolist()] = 0.0
            rows[row, places[end:].tolist()] = 0.0


def _runs(chosen: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """(begin, end) of every run of true values."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
