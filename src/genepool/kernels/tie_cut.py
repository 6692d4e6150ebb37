"""Which of the entries that tie with a limit are kept, by their place: so that a share is kept exactly.

Differences of bfloat16 checkpoints take few distinct values. A limit on magnitudes alone would keep all entries that
equal it: 12% of them where 5% were asked for. `Selection` says how many of them belong to the share; this says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class TieCut:
    """Of the entries of one magnitude, in the order of streamed matrices and of their places, a range is kept.

    Add the `ties` of all rows in order, then `finish`; after that `drop` works on any rows.

    Args:
        value: the magnitude.
        first, last: the range, from 0; `last` is not kept itself.
    """

    def __init__(self, value: float, first: int, last: int) -> None:
        self.value, self.first, self.last = value, first, last
        self._counts: dict[str, list[torch.Tensor]] = {}
        # Ties before each row, for matrices on the edge of the range; None where no tie is kept.
        self._before: dict[str, torch.Tensor | None] = {}

    def ties(self, rows: torch.Tensor) -> torch.Tensor:
        """Entries of the magnitude in each row, `(rows,)` int32 on the processor."""
        import torch

        return (rows.abs() == self.value).sum(-1, dtype=torch.int32).cpu()

    def add(self, name: str, counts: torch.Tensor) -> None:
        """Takes in the `ties` of the next rows of a matrix."""
        self._counts.setdefault(name, []).append(counts)

    def finish(self) -> None:
        """Ends the counting."""
        import torch

        seen = 0
        for name, counts in self._counts.items():
            sums = torch.cat(counts).cumsum(0, dtype=torch.int64)
            here = int(sums[-1]) if len(sums) else 0
            if here and not (seen >= self.first and seen + here <= self.last):
                outside = seen + here <= self.first or seen >= self.last
                self._before[name] = None if outside else torch.cat([torch.zeros(1, dtype=torch.int64), sums]) + seen
            seen += here
        self._counts.clear()

    def drop(self, name: str, start: int, rows: torch.Tensor) -> None:
        """Sets the ties outside of the range to zero, in place.

        Args:
            name: of the matrix.
            start: the number of its first row here.
            rows: `(rows, columns)`.
        """
        import torch

        if name not in self._before:
            return
        edges = self._before[name]
        if edges is None:
            rows.masked_fill_(rows.abs() == self.value, 0.0)
            return
        before, after = edges[start : start + len(rows)], edges[start + 1 : start + 1 + len(rows)]
        outside = (after <= self.first) | (before >= self.last)
        some = outside.to(rows.device)
        if bool(outside.any()):
            rows.masked_fill_((rows.abs() == self.value) & some.unsqueeze(-1), 0.0)
        cut = ~outside & ((before < self.first) | (after > self.last))
        for row in torch.nonzero(cut).flatten().tolist():
            places = torch.nonzero(rows[row].abs() == self.value).flatten()
            begin, end = (min(max(edge - int(before[row]), 0), len(places)) for edge in (self.first, self.last))
            rows[row, places[:begin]] = 0.0
            rows[row, places[end:]] = 0.0
