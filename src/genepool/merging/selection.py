"""Exact top-k thresholds by magnitude of vectors that are streamed past: two passes that count bits, no sorting.

`keep_count` says how many entries a density keeps; `MagnitudeSelection` finds the smallest of them, with memory that
does not depend on the number of parameters.
"""

from __future__ import annotations

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
        self._bucket: int | None = None
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
            count_magnitudes(values, counts, self._bucket if number else None)

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
            self._bucket = bucket
        else:
            from genepool.merging.kernels.counting import LOW_BITS

            assert self._bucket is not None
            bits = torch.tensor([(self._bucket << LOW_BITS) | bucket], dtype=torch.int32)
            self.threshold = float(bits.view(torch.float32))
