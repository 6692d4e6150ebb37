"""Exact top-k thresholds by magnitude of vectors that are streamed past: two passes that count bits, no sorting.

`keep_count` says how many entries a density keeps; `MagnitudeSelection` finds the smallest of them, with memory that
does not depend on the number of parameters; `MagnitudeSelections` finds several in the same passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keep_count(density: float, numel: int) -> int:
    """How many of `numel` entries a density keeps: the whole part, at least one unless the density is zero."""
    return 0 if density <= 0 or numel == 0 else max(1, min(numel, int(density * numel)))


class MagnitudeSelection:
    """The k-th largest magnitude of a vector that is streamed past twice; infinity for k = 0.

    In each of two passes: `counts = begin(pass)`, `observe(pass, part, counts)` for parts of any sizes in any order,
    `fold(counts)`, and `finish(pass)`. Then `threshold` is exact.
    """

    passes = 2

    def __init__(self, k: int) -> None:
        self.k = k
        self.threshold = float("inf")
        # Upper bits of the magnitude sought, once the first pass has told them.
        self.bucket: int | None = None
        self._rank = k
        self._counts: torch.Tensor | None = None

    def begin(self, number: int) -> torch.Tensor:
        """An empty histogram for pass `number`."""
        import torch

        from genepool.merging.kernels.counting import HIGH_BUCKETS, LOW_BUCKETS

        return torch.zeros(LOW_BUCKETS if number else HIGH_BUCKETS, dtype=torch.int64)

    def observe(self, number: int, values: torch.Tensor, counts: torch.Tensor) -> None:
        """Counts one part of the vector; float32, any shape, no NaN."""
        from genepool.merging.kernels import count_magnitudes

        if self.k > 0:
            count_magnitudes(values, counts, self.bucket if number else None)

    def fold(self, counts: torch.Tensor) -> None:
        """Adds one histogram to the whole."""
        self._counts = counts if self._counts is None else self._counts + counts

    def finish(self, number: int) -> None:
        """Ends one pass."""
        import torch

        counts, self._counts = self._counts, None
        if self.k <= 0 or counts is None:
            return
        # Counting from the largest bucket down, the first whose running total reaches the rank holds the k-th.
        totals = torch.cumsum(counts.flip(0), 0)
        place = int(torch.searchsorted(totals, torch.tensor(self._rank)))
        bucket = counts.numel() - 1 - place
        self._rank -= int(totals[place] - counts[bucket])
        if number == 0:
            self.bucket = bucket
        else:
            from genepool.merging.kernels.counting import LOW_BITS

            assert self.bucket is not None
            bits = torch.tensor([(self.bucket << LOW_BITS) | bucket], dtype=torch.int32)
            self.threshold = float(bits.view(torch.float32))


class MagnitudeSelections:
    """Several k-th largest magnitudes of one vector, streamed past twice; used as `MagnitudeSelection` is."""

    passes = MagnitudeSelection.passes

    def __init__(self, ks: Sequence[int]) -> None:
        self._selections = [MagnitudeSelection(k) for k in ks]

    @property
    def thresholds(self) -> list[float]:
        """The magnitudes, in the order of their k."""
        return [selection.threshold for selection in self._selections]

    def begin(self, number: int) -> dict[int | None, torch.Tensor]:
        """Empty histograms for pass `number`: one for all in the first, one for each bucket in the second."""
        wanted = [selection for selection in self._selections if selection.k > 0]
        buckets = {selection.bucket for selection in wanted if number == 0 or selection.bucket is not None}
        return {bucket: wanted[0].begin(number) for bucket in buckets}

    def observe(self, number: int, values: torch.Tensor, counts: dict[int | None, torch.Tensor]) -> None:
        """Counts one part of the vector; float32, any shape, no NaN."""
        from genepool.merging.kernels import count_magnitudes

        for bucket, histogram in counts.items():
            count_magnitudes(values, histogram, bucket)

    def fold(self, counts: dict[int | None, torch.Tensor]) -> None:
        """Adds histograms to the whole."""
        for selection in self._selections:
            if selection.bucket in counts:
                selection.fold(counts[selection.bucket])

    def finish(self, number: int) -> None:
        """Ends one pass."""
        for selection in self._selections:
            selection.finish(number)
