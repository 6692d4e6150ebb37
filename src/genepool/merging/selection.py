"""Exact top-k thresholds by magnitude: of one tensor at once, or of a whole vector streamed past in two passes.

For non-negative floats the order of the values is the order of their bits, so the k-th largest is found by counting
bits: a histogram over the upper half, then one over the lower half of the bucket that holds the k-th. No sorting,
no sampling, and memory that does not depend on the number of parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LOW_BITS = 15
_HIGH_BUCKETS = 1 << 16
_LOW_BUCKETS = 1 << _LOW_BITS


def keep_count(density: float, numel: int) -> int:
    """How many of `numel` entries a density keeps: the whole part, at least one unless the density is zero."""
    return 0 if density <= 0 or numel == 0 else max(1, min(numel, int(density * numel)))


def kth_largest_magnitude(values: torch.Tensor, k: int) -> float:
    """The k-th largest |value| of one tensor, k counted from 1; infinity for k = 0."""
    import torch

    if k <= 0:
        return float("inf")
    flat = values.abs().reshape(-1)
    return float(torch.kthvalue(flat, flat.numel() - k + 1).values)


class MagnitudeSelection:
    """The k-th largest magnitude of a vector that is streamed past twice.

    Use: `observe(0, part)` for every part, `finish(0)`, `observe(1, part)` for every part, `finish(1)`; then
    `threshold` is exact. Parts may come in any order and sizes.
    """

    passes = 2

    def __init__(self, k: int) -> None:
        import torch

        self.k = k
        self.threshold = float("inf")
        self._bucket = -1
        self._rank = k
        self._counts = torch.zeros(_HIGH_BUCKETS, dtype=torch.int64)

    def observe(self, number: int, values: torch.Tensor) -> None:
        """Counts one part of the vector; float32, any shape, no NaN."""
        import torch

        if self.k <= 0 or values.numel() == 0:
            return
        bits = values.abs().reshape(-1).contiguous().view(torch.int32)
        high = bits >> _LOW_BITS
        if number == 0:
            self._counts += torch.bincount(high, minlength=_HIGH_BUCKETS)
        else:
            low = bits[high == self._bucket] & (_LOW_BUCKETS - 1)
            self._counts += torch.bincount(low, minlength=_LOW_BUCKETS)

    def finish(self, number: int) -> None:
        """Ends one pass."""
        import torch

        if self.k <= 0:
            return
        # Counting from the largest bucket down, the first whose running total reaches the rank holds the k-th.
        totals = torch.cumsum(self._counts.flip(0), 0)
        place = int(torch.searchsorted(totals, torch.tensor(self._rank)))
        bucket = self._counts.numel() - 1 - place
        self._rank -= int(totals[place] - self._counts[bucket])
        if number == 0:
            self._bucket = bucket
            self._counts = torch.zeros(_LOW_BUCKETS, dtype=torch.int64)
        else:
            bits = torch.tensor([(self._bucket << _LOW_BITS) | bucket], dtype=torch.int32)
            self.threshold = float(bits.view(torch.float32))
