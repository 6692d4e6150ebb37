"""Where sparse task vectors overlap: counts, and means over those that are active (RAM, arXiv:2601.13572)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array, float32_array, of_kind

if TYPE_CHECKING:
    import numpy as np
    import torch


def overlap_counts(vectors: Any, epsilon: float) -> np.ndarray[Any, Any]:
    """How many entries of each vector are active, alone or together with others.

    Args:
        vectors: `(k, ...)` float32, an array or a tensor.
        epsilon: an entry is active when its magnitude is above this.

    Returns:
        `(k, 2)` int64: entries active in this vector alone, and in another one too.
    """
    import numpy as np

    arrays = as_array(vectors)
    if arrays is None:
        return np.asarray(_counts_formula(vectors, epsilon).cpu())
    from genepool.kernels import compiled_entries

    counts = np.zeros((len(arrays), 2), np.int64)
    compiled_entries.overlap_counts(arrays.reshape(len(arrays), -1), epsilon, counts)
    return counts


def overlap_mean(vectors: Any, epsilon: float, factors: Sequence[float]) -> Any:
    """Per entry the mean over the active vectors; zero where none is.

    Args:
        vectors: `(k, ...)` float32, an array or a tensor.
        epsilon: an entry is active when its magnitude is above this.
        factors: of each vector where it alone is active.
    """
    import numpy as np

    arrays = as_array(vectors)
    if arrays is None:
        return _mean_formula(vectors, epsilon, factors)
    from genepool.kernels import compiled_entries

    merged = np.empty(arrays.shape[1:], np.float32)
    compiled_entries.overlap_mean(arrays.reshape(len(arrays), -1), epsilon, float32_array(factors), merged.reshape(-1))
    return of_kind(merged, vectors)


def _counts_formula(vectors: torch.Tensor, epsilon: float) -> torch.Tensor:
    import torch

    flat = vectors.reshape(vectors.shape[0], -1)
    active = flat.abs() > torch.tensor(epsilon, dtype=torch.float32)
    alone = active & (active.sum(0) == 1)
    return torch.stack([alone.sum(1), active.sum(1) - alone.sum(1)], dim=1)


def _mean_formula(vectors: torch.Tensor, epsilon: float, factors: Sequence[float]) -> torch.Tensor:
    import torch

    total, alone, count = (torch.zeros_like(vectors[0]) for _ in range(3))
    limit = torch.tensor(epsilon, dtype=torch.float32)
    for vector, factor in zip(vectors, factors, strict=True):
        active = vector.abs() > limit
        entries = torch.where(active, vector, 0.0)
        total += entries
        alone += entries * factor
        count += active
    return torch.where(count == 1, alone, total / count.clamp_min(1))
