"""Entries on which several task vectors are active: consensus masks, and stitching where localised regions overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array, float32_array, of_kind

if TYPE_CHECKING:
    import torch


def consensus(vectors: Any, factors: Sequence[float], thresholds: Sequence[float], needed: int) -> Any:
    """`sum_k factors[k] v_k` where at least `needed` vectors have `|v_k| > thresholds[k] |sum_j v_j - v_k|`, else 0.

    Args:
        vectors: k task vectors, `(k, ...)` float32, contiguous; an array or a tensor.
        factors, thresholds: one of each for every vector.
        needed: how many masks must hold an entry.

    Returns:
        float32, of the shape of one vector.
    """

    arrays = as_array(vectors)
    if arrays is None:
        return _consensus_formula(vectors, factors, thresholds, needed)
    import numpy as np

    from genepool.kernels import compiled_vectors

    merged = np.empty(arrays.shape[1:], np.float32)
    compiled_vectors.consensus(
        arrays.reshape(len(factors), -1),
        float32_array(factors),
        float32_array(thresholds),
        needed,
        merged.reshape(-1),
    )
    return of_kind(merged, vectors)


def _consensus_formula(
    vectors: torch.Tensor, factors: Sequence[float], thresholds: Sequence[float], needed: int
) -> torch.Tensor:
    import torch

    total, merged = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    masks = torch.zeros_like(vectors[0])
    for vector, factor, threshold in zip(vectors, factors, thresholds, strict=True):
        masks += vector.abs() > (total - vector).abs() * threshold
        merged += vector * factor
    return torch.where(masks >= needed, merged, 0.0)


def stitch(vectors: Any, factors: Sequence[float], low: Sequence[float]) -> Any:
    """Per entry, the mean of `factors[k] v_k` over the vectors that are not zero there and reach `low[k]`; 0 if none.

    Args:
        vectors: k task vectors, `(k, ...)` float32, contiguous; an array or a tensor.
        factors: one for each.
        low: smallest magnitude of each that belongs to its region.

    Returns:
        float32, of the shape of one vector.
    """

    arrays = as_array(vectors)
    if arrays is None:
        return _stitch_formula(vectors, factors, low)
    import numpy as np

    from genepool.kernels import compiled_vectors

    merged = np.empty(arrays.shape[1:], np.float32)
    compiled_vectors.stitch(
        arrays.reshape(len(factors), -1), float32_array(factors), float32_array(low), merged.reshape(-1)
    )
    return of_kind(merged, vectors)


def _stitch_formula(vectors: torch.Tensor, factors: Sequence[float], low: Sequence[float]) -> torch.Tensor:
    import torch

    merged, count = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
    for vector, factor, threshold in zip(vectors, factors, low, strict=True):
        inside = (vector.abs() >= threshold) & (vector != 0)
        merged += torch.where(inside, vector * factor, 0.0)
        count += inside
    return merged / count.clamp_min(1)
