"""Sums of trimmed task vectors, plain or with the sign election of TIES (arXiv:2306.01708, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.kernels.buffers import empty, float32_array

if TYPE_CHECKING:
    import torch


def elect(
    vectors: torch.Tensor,
    weights: Sequence[float],
    *,
    scales: Sequence[float] | None = None,
    votes: Sequence[float] | None = None,
    normalize: bool,
    zero_sign: float = 1.0,
    thresholds: Sequence[float] | None = None,
    ceilings: Sequence[float] | None = None,
) -> tuple[torch.Tensor, int]:
    """Per entry, elects the sign with the larger total mass and adds up the vectors that agree with it.

    Args:
        vectors: k task vectors, `(k, ...)` float32, already trimmed or to be trimmed by the limits.
        weights: one for each; they scale the votes and the sum.
        scales: a further factor of each vector that its weight in the mean does not count; 1 when None.
        votes: factor of each vector in the vote; that in the sum when None.
        normalize: divide by the weights of the agreeing, non-zero entries; with equal weights that is the paper's mean.
        zero_sign: sign where the votes cancel exactly: +1 or -1.
        thresholds: smallest magnitude of each model that takes part; 0 when None.
        ceilings: largest magnitude of each model that takes part; no limit when None.

    Returns:
        The merged vector, of the shape of one, and the sum of the elected signs over all entries (0 where the votes
        cancel), from which the majority sign of a whole vector is told.
    """

    low, high = _limits(thresholds, ceilings, len(weights))
    factors = [weight * scale for weight, scale in zip(weights, scales or [1.0] * len(weights), strict=True)]
    if vectors.device.type != "cpu":
        return _formula(vectors, factors, weights, low, zero_sign, normalize, high, votes)
    from genepool.kernels import compiled

    merged = empty(vectors.shape[1:])
    balance = compiled.elect(
        vectors.reshape(len(weights), -1).numpy(),
        float32_array(factors if votes is None else votes),
        float32_array(factors),
        float32_array(weights),
        float32_array(low),
        float32_array(high),
        zero_sign,
        normalize,
        merged.reshape(-1).numpy(),
    )
    return merged, int(balance)


def trimmed_sum(
    vectors: torch.Tensor,
    factors: Sequence[float],
    *,
    thresholds: Sequence[float] | None = None,
    ceilings: Sequence[float] | None = None,
) -> torch.Tensor:
    """`sum_i f_i v_i` over the entries that take part.

    Args:
        vectors: `(k, ...)` float32.
        factors: one for each.
        thresholds: smallest magnitude of each vector that takes part; 0 when None.
        ceilings: largest magnitude of each vector that takes part; no limit when None.
    """

    low, high = _limits(thresholds, ceilings, len(factors))
    if vectors.device.type != "cpu":
        return _sum_formula(vectors, factors, low, high)
    from genepool.kernels import compiled

    total = empty(vectors.shape[1:])
    compiled.trimmed_sum(
        vectors.reshape(len(factors), -1).numpy(),
        float32_array(factors),
        float32_array(low),
        float32_array(high),
        total.reshape(-1).numpy(),
    )
    return total


def l1_norms(
    vectors: torch.Tensor, *, thresholds: Sequence[float] | None = None, ceilings: Sequence[float] | None = None
) -> torch.Tensor:
    """The L1 norm of every vector over the entries that take part, `(k,)` float64 on the processor.

    Args:
        vectors: `(k, ...)` float32.
        thresholds, ceilings: as for `trimmed_sum`.
    """
    import torch

    low, high = _limits(thresholds, ceilings, len(vectors))
    if vectors.device.type != "cpu":
        return torch.stack([_norm_formula(*part) for part in zip(vectors, low, high, strict=True)]).cpu()
    from genepool.kernels import compiled

    lows, highs = float32_array(low), float32_array(high)
    norms = [
        compiled.magnitude_sum(vector.reshape(-1).numpy(), lows[i : i + 1], highs[i : i + 1])
        for i, vector in enumerate(vectors)
    ]
    return torch.tensor(norms, dtype=torch.float64)


def _norm_formula(vector: torch.Tensor, low: float, high: float) -> torch.Tensor:
    import torch

    return _trimmed(vector, 1.0, low, high).abs().sum(dtype=torch.float64)


def _limits(
    thresholds: Sequence[float] | None, ceilings: Sequence[float] | None, count: int
) -> tuple[list[float], list[float]]:
    low = list(thresholds) if thresholds is not None else [0.0] * count
    return low, list(ceilings) if ceilings is not None else [math.inf] * count


def _trimmed(vector: torch.Tensor, factor: float, low: float, high: float) -> torch.Tensor:
    import torch

    sizes = vector.abs()
    return torch.where((sizes >= low) & (sizes <= high), vector, 0.0) * factor


def _sum_formula(
    vectors: torch.Tensor, factors: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> torch.Tensor:
    import torch

    total = torch.zeros_like(vectors[0])
    for part in zip(vectors, factors, low, high, strict=True):
        total += _trimmed(*part)
    return total


def _formula(
    vectors: torch.Tensor,
    factors: Sequence[float],
    weights: Sequence[float],
    low: Sequence[float],
    zero_sign: float,
    normalize: bool,
    high: Sequence[float] | None = None,
    votes: Sequence[float] | None = None,
) -> tuple[torch.Tensor, int]:
    import torch

    high = high or [math.inf] * len(weights)
    signs = torch.sign(_sum_formula(vectors, factors if votes is None else votes, low, high))
    balance = int(signs.sum(dtype=torch.float64))
    signs[signs == 0] = zero_sign
    merged, divisor = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
    for *part, weight in zip(vectors, factors, low, high, weights, strict=True):
        weighted = _trimmed(*part)
        # Trimmed entries are zero and have no sign, so they agree with nothing.
        agrees = torch.sign(weighted) == signs
        merged += torch.where(agrees, weighted, 0.0)
        divisor += agrees * weight
    if normalize:
        merged /= torch.where(divisor == 0, 1.0, divisor)
    return merged, balance
