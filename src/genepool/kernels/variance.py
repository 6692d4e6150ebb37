"""How much entries vary between vectors, and what is left of those that vary most (SCE, arXiv:2408.07990, 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array, of_kind

if TYPE_CHECKING:
    import numpy as np
    import torch


def variances(vectors: Any) -> Any:
    """Per entry the variance over the vectors, times their number.

    Args:
        vectors: `(k, ...)` float32, contiguous; an array or a tensor.

    Returns:
        float32, of the shape of one vector.
    """
    arrays = as_array(vectors)
    if arrays is None:
        return _formula(vectors)
    import numpy as np

    from genepool.kernels import compiled_entries

    found = np.empty(arrays.shape[1:], np.float32)
    compiled_entries.variances(arrays.reshape(len(arrays), -1), found.reshape(-1))
    return of_kind(found, vectors)


def _formula(vectors: torch.Tensor) -> torch.Tensor:
    import torch

    mean, total = vectors[0].clone(), torch.zeros_like(vectors[0])
    for vector in vectors[1:]:
        mean.add_(vector)
    mean.div_(len(vectors))
    for vector in vectors:
        total.add_((vector - mean).square_())
    return total


def keep_largest(vectors: Any, sizes: Any, threshold: float) -> None:
    """Sets to zero, in place, the entries of all vectors whose size is below a threshold.

    Args:
        vectors: `(k, ...)` float32, contiguous; an array or a tensor.
        sizes: float32, of the shape of one vector.
        threshold: the smallest size that stays.
    """
    arrays, own = as_array(vectors), as_array(sizes)
    if arrays is None or own is None:
        vectors.masked_fill_(sizes < threshold, 0.0)
        return
    from genepool.kernels import compiled_entries

    compiled_entries.keep_largest(arrays.reshape(len(arrays), -1), own.reshape(-1), threshold)


def squares(vectors: Any) -> np.ndarray[Any, Any]:
    """The sum of the squares of every vector, `(k,)` float64.

    Args:
        vectors: `(k, ...)` float32, contiguous; an array or a tensor.
    """
    import numpy as np

    arrays = as_array(vectors)
    if arrays is None:
        found: np.ndarray[Any, Any] = vectors.double().square_().flatten(1).sum(1).cpu().numpy()
        return found
    from genepool.kernels import compiled_entries

    return np.array([compiled_entries.sum_of_squares(vector.reshape(-1)) for vector in arrays])
