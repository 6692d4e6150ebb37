"""Where sparse task vectors overlap: counts, and means over those that are active (RAM, arXiv:2601.13572)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.kernels.buffers import empty

if TYPE_CHECKING:
    import torch


def overlap_counts(vectors: torch.Tensor, epsilon: float) -> torch.Tensor:
    """How many entries of each vector are active, alone or together with others.

    Args:
        vectors: `(k, ...)` float32.
        epsilon: an entry is active when its magnitude is above this.

    Returns:
        `(k, 2)` int64 on the processor: entries active in this vector alone, and in another one too.
    """
    import torch

    counts = torch.zeros((vectors.shape[0], 2), dtype=torch.int64)
    if vectors.device.type != "cpu":
        return _counts_formula(vectors, epsilon).cpu()
    from genepool.kernels import compiled_entries

    compiled_entries.overlap_counts(vectors.reshape(vectors.shape[0], -1).numpy(), epsilon, counts.numpy())
    return counts


def overlap_mean(vectors: torch.Tensor, epsilon: float, factors: Sequence[float]) -> torch.Tensor:
    """Per entry the mean over the active vectors; zero where none is.

    Args:
        vectors: `(k, ...)` float32.
        epsilon: an entry is active when its magnitude is above this.
        factors: of each vector where it alone is active.
    """
    import torch

    if vectors.device.type != "cpu":
        return _mean_formula(vectors, epsilon, factors)
    from genepool.kernels import compiled_entries

    merged = empty(vectors.shape[1:])
    compiled_entries.overlap_mean(
        vectors.reshape(vectors.shape[0], -1).numpy(),
        epsilon,
        torch.tensor(factors, dtype=torch.float32).numpy(),
        merged.reshape(-1).numpy(),
    )
    return merged


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
