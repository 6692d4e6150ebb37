"""Ranks of magnitudes within rows, for methods whose masks depend on them (DELLA)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def row_ranks(rows: torch.Tensor) -> torch.Tensor:
    """Where each entry's magnitude stands among those of its row.

    Args:
        rows: `(rows, columns)` float32.

    Returns:
        `(rows, columns)` float32: 0 for the smallest, 1 for the largest, evenly spaced; equal magnitudes share the mean
        of their ranks, and the only entry of a row stands at 0.5.
    """
    import torch

    if rows.device.type != "cpu" or not rows.numel():
        return _formula(rows)
    from genepool.merging.kernels import compiled_entries

    ranks = torch.empty(rows.shape, dtype=torch.float32)
    compiled_entries.row_ranks(rows.contiguous().numpy(), ranks.numpy())
    return ranks


def _formula(rows: torch.Tensor) -> torch.Tensor:
    import torch

    columns = rows.shape[-1]
    if columns <= 1:
        return torch.full_like(rows, 0.5)
    sizes = rows.abs()
    in_order = sizes.sort(dim=-1).values
    below = torch.searchsorted(in_order, sizes)
    not_above = torch.searchsorted(in_order, sizes, right=True)
    return (below + not_above - 1).float().mul_(0.5).div_(columns - 1)
