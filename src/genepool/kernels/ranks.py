"""Ranks of magnitudes within rows, and random masks that depend on them (DELLA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array, empty
from genepool.kernels.random_draws import uniform

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

    if rows.device.type != "cpu" or not rows.numel():
        return _formula(rows)
    from genepool.kernels import compiled_ranks

    ranks = empty(rows.shape)
    compiled_ranks.row_ranks(rows.contiguous().numpy(), ranks.numpy())
    return ranks


def drop_by_rank(rows: Any, least: float, most: float, key: int, offset: int = 0, *, rescale: bool = True) -> None:
    """Sets entries to zero at random, in place, the small ones of each row more often than the large.

    Args:
        rows: `(rows, columns)` float32, contiguous; an array or a tensor.
        least, most: probability that the smallest and that the largest entry of a row stays; between them it grows
            evenly with the rank.
        key, offset: as for `uniform`; the first entry has the stream's number `offset`.
        rescale: divide what stays by its probability.
    """
    array = as_array(rows)
    if array is None:
        _drop_formula(rows, least, most, uniform(rows.numel(), key, offset, rows.device), rescale)
    elif array.size:
        from genepool.kernels import compiled_ranks

        if rescale:
            compiled_ranks.drop_by_buckets(array, key, offset, least, most - least)
        else:
            compiled_ranks.drop_by_bounds(array, key, offset, least, most - least)


def _drop_formula(rows: torch.Tensor, least: float, most: float, draws: torch.Tensor, rescale: bool) -> None:
    probabilities = _formula(rows).mul_(most - least).add_(least)
    dropped = draws.reshape(rows.shape) >= probabilities
    if rescale:
        rows.div_(probabilities)
    rows.masked_fill_(dropped, 0.0)


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
