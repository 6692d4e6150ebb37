"""Entries on which several task vectors are active: consensus masks, and stitching where localised regions overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.kernels.buffers import empty, float32_array

if TYPE_CHECKING:
    import torch


def consensus(
    vectors: torch.Tensor, factors: Sequence[float], thresholds: Sequence[float], needed: int
) -> torch.Tensor:
    """`sum_k factors[k] v_k` where at least `needed` vectors have `|v_k| > thresholds[k] |sum_j v_j - v_k|`, else 0.

    Args:
        vectors: k task vectors, `(k, ...)` float32, contiguous.
        factors, thresholds: one of each for every vector.
        needed: how many masks must hold an entry.

    Returns:
        float32, of the shape of one vector.
    """

    if vectors.device.type != "cpu":
        return _consensus_formula(vectors, factors, thresholds, needed)
    from genepool.kernels import compiled_vectors

    merged = empty(vectors.shape[1:])
    compiled_vectors.consensus(
        vectors.reshape(len(factors), -1).numpy(),
        float32_array(factors),
        float32_array(thresholds),
        needed,
        merged.view(-1).numpy(),
    )
    return merged


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


def stitch(vectors: torch.Tensor, factors: Sequence[float], low: Sequence[float]) -> torch.Tensor:
    """Per entry, the mean of `factors[k] v_k` over the vectors that are not zero there and reach `low[k]`; 0 if none.

    Args:
        vectors: k task vectors, `(k, ...)` float32, contiguous.
        factors: one for each.
        low: smallest magnitude of each that belongs to its region.

    Returns:
        float32, of the shape of one vector.
    """

    if vectors.device.type != "cpu":
        return _stitch_formula(vectors, factors, low)
    from genepool.kernels import compiled_vectors

    merged = empty(vectors.shape[1:])
    compiled_vectors.stitch(
        vectors.reshape(len(factors), -1).numpy(), float32_array(factors), float32_array(low), merged.view(-1).numpy()
    )
    return merged


def _stitch_formula(vectors: torch.Tensor, factors: Sequence[float], low: Sequence[float]) -> torch.Tensor:
    import torch

    merged, count = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
    for vector, factor, threshold in zip(vectors, factors, low, strict=True):
        inside = (vector.abs() >= threshold) & (vector != 0)
        merged += torch.where(inside, vector * factor, 0.0)
        count += inside
    return merged / count.clamp_min(1)
