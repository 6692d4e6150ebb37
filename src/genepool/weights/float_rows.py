"""Rows of any tensor as float32 in numpy; without torch where the file holds them as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.weights.change import Change, block_rows
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import numpy as np

# What float32 holds, with room for rounding.
_LARGEST = 3e38
_WIDENED = frozenset({"F32", "BF16", "F16"})


def is_stored_float(weights: Weights, name: str) -> bool:
    """Whether a tensor lies in a file as it is, in a float type that float32 holds every value of."""
    return weights.info(name).dtype in _WIDENED and weights.stored_in(name) is not None


def first_nonfinite(weights: Weights) -> str:
    """The first tensor that holds NaN or infinity, read block by block; empty where none does."""
    from genepool.kernels.reading import is_finite

    floats = (name for name in weights.names() if weights.info(name).is_float and weights.info(name).numel)
    for name in floats:
        blocks = block_rows(*weights.info(name).matrix)
        if not all(is_finite(weights.read_rows(name, start, stop)) for start, stop in blocks):
            return name
    return ""


def is_finite_change(change: Change, name: str) -> bool:
    """Whether no entry of a tensor's change is NaN or infinite; of a product that is small, factors alone are read."""
    from genepool.kernels.reading import is_finite

    product = change.factors(name)
    if product is not None and product.left.numel() and product.right.numel():
        largest = [float(one.abs().max()) for one in (product.left, product.right)]
        # No entry of the product is larger, nor any sum on the way to it. NaN is no smaller than anything.
        if largest[0] * largest[1] * product.left.shape[1] * max(1.0, abs(product.factor)) < _LARGEST:
            return True
    return all(is_finite(change.rows(name, start, stop)) for start, stop in block_rows(*change.matrix(name)))


def read_float32(weights: Weights, name: str, start: int, stop: int, into: np.ndarray[Any, Any]) -> None:
    """Rows `start` to `stop` of a tensor.

    Args:
        weights: the model.
        name: the tensor; of a float type.
        start, stop: rows of the tensor as a matrix.
        into: float32, as many entries as the rows have, contiguous; written into.
    """
    import numpy as np

    dtype, stored = weights.info(name).dtype, weights.stored_in(name)
    if stored is None or dtype not in _WIDENED:
        into.reshape(-1)[:] = weights.read_rows(name, start, stop).float().numpy().reshape(-1)
        return
    file, own_name = stored
    if dtype == "F32":
        file.read_bytes(own_name, start, stop, into.data.cast("B"))
    else:
        half = np.empty(into.size, np.uint16)
        file.read_bytes(own_name, start, stop, half.data.cast("B"))
        if dtype == "F16":
            into.reshape(-1)[:] = half.view(np.float16)
        else:
            # A bfloat16 is the upper half of a float32.
            np.left_shift(half, 16, out=into.reshape(-1).view(np.uint32), dtype=np.uint32)
