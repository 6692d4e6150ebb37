"""Histograms over the bits of magnitudes, from which exact order statistics are read off.

For non-negative floats the order of the values is the order of their bits: counting the upper 16 bits, then the lower
15 of one bucket, finds any order statistic of any number of values in two passes, without sorting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array

if TYPE_CHECKING:
    import numpy as np
    import torch

LOW_BITS = 15
HIGH_BUCKETS = 1 << 16
LOW_BUCKETS = 1 << LOW_BITS


def count_magnitudes(values: Any, counts: np.ndarray[Any, Any], bucket: int | None = None) -> None:
    """Adds the histogram of |values| to `counts`.

    Args:
        values: float32, any shape; an array or a tensor.
        counts: int64; `(HIGH_BUCKETS,)` without a bucket, `(LOW_BUCKETS,)` with one.
        bucket: count the lower bits of those values only whose upper bits are this.
    """
    import numpy as np

    flat = values.reshape(-1)
    array = as_array(flat)
    if array is None:
        counts += _formula(flat, counts.size, bucket).cpu().numpy()
    elif array.size:
        from genepool.kernels import compiled

        bits = array.view(np.uint32)
        if bucket is None:
            compiled.count_bits(bits, LOW_BITS, counts)
        else:
            compiled.count_low_bits(bits, LOW_BITS, bucket, counts)


def _formula(flat: torch.Tensor, buckets: int, bucket: int | None) -> torch.Tensor:
    import torch

    bits = flat.view(torch.int32) & 0x7FFFFFFF
    high = bits >> LOW_BITS
    if bucket is None:
        return torch.bincount(high, minlength=buckets)
    return torch.bincount(bits[high == bucket] & (LOW_BUCKETS - 1), minlength=buckets)
