"""Histograms over the bits of magnitudes, from which exact order statistics are read off.

For non-negative floats the order of the values is the order of their bits: counting the upper 16 bits, then the lower
15 of one bucket, finds any order statistic of any number of values in two passes, without sorting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LOW_BITS = 15
HIGH_BUCKETS = 1 << 16
LOW_BUCKETS = 1 << LOW_BITS


def count_magnitudes(values: torch.Tensor, counts: torch.Tensor, bucket: int | None = None) -> None:
    """Adds the histogram of |values| to `counts`.

    Args:
        values: float32, any shape.
        counts: int64 on the processor; `(HIGH_BUCKETS,)` without a bucket, `(LOW_BUCKETS,)` with one.
        bucket: count the lower bits of those values only whose upper bits are this.
    """
    import torch

    flat = values.reshape(-1)
    if not flat.numel():
        return
    if flat.device.type == "cpu":
        from genepool.kernels import compiled

        bits = flat.view(torch.int32).numpy().view("uint32")
        if bucket is None:
            compiled.count_bits(bits, LOW_BITS, counts.numpy())
        else:
            compiled.count_low_bits(bits, LOW_BITS, bucket, counts.numpy())
    else:
        counts += _formula(flat, counts.numel(), bucket).to(counts.device)


def _formula(flat: torch.Tensor, buckets: int, bucket: int | None) -> torch.Tensor:
    import torch

    bits = flat.view(torch.int32) & 0x7FFFFFFF
    high = bits >> LOW_BITS
    if bucket is None:
        return torch.bincount(high, minlength=buckets)
    return torch.bincount(bits[high == bucket] & (LOW_BUCKETS - 1), minlength=buckets)
