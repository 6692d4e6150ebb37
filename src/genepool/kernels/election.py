"""Sums of trimmed task vectors, plain or with the sign election of TIES (arXiv:2306.01708, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array, float32_array, of_kind

if TYPE_CHECKING:
    import numpy as np
    import torch


def elect(
    vectors: Any,
    weights: Sequence[float],
    *,
    scales: Sequence[float] | None = None,
    votes: Sequence[float] | None = None,
    normalize: bool,
    zero_sign: float = 1.0,
    thresholds: Sequence[float] | None = None,
    ceilings: Sequence[float] | None = None,
) -> tuple[Any, int]:
    """Per entry, elects the sign with the larger total mass and adds up the vectors that agree with it.

    Args:
        vectors: k task vectors, `(k, ...)` float32, arrays or tensors, already trimmed or to be trimmed by the limits.
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
    arrays = as_array(vectors)
    if arrays is None:
        return _formula(vectors, factors, weights, low, zero_sign, normalize, high, votes)
    import numpy as np

    from genepool.kernels import compiled

    merged = np.empty(arrays.shape[1:], np.float32)
    balance = compiled.elect(
        arrays.reshape(len(weights), -1),
        float32_array(factors if votes is None else votes),
        float32_array(factors),
        float32_array(weights),
        float32_array(low),
        float32_array(high),
        zero_sign,
        normalize,
        merged.reshape(-1),
    )
    return of_kind(merged, vectors), int(balance)


def balance_of_votes(
    vectors: Any,
    factors: Sequence[float],
    *,
    thresholds: Sequence[float] | None = None,
    ceilings: Sequence[float] | None = None,
) -> int:
    """The second of what `elect` returns, in half the time.

    Args:
        vectors: as for `elect`.
        factors: of each vector in the vote: its weight times its scale.
        thresholds, ceilings: as for `elect`.
    """
    low, high = _limits(thresholds, ceilings, len(factors))
    arrays = as_array(vectors)
    if arrays is None:
        return int(_sum_formula(vectors, factors, low, high).sign().sum().item())
    from genepool.kernels import compiled

    return int(
        compiled.balance_of_votes(
            arrays.reshape(len(factors), -1), float32_array(factors), float32_array(low), float32_array(high)
        )
    )


def trimmed_sum(
    vectors: Any,
    factors: Sequence[float],
    *,
    thresholds: Sequence[float] | None = None,
    ceilings: Sequence[float] | None = None,
) -> Any:
    """`sum_i f_i v_i` over the entries that take part.

    Args:
        vectors: `(k, ...)` float32.
        factors: one for each.
        thresholds: smallest magnitude of each vector that takes part; 0 when None.
        ceilings: largest magnitude of each vector that takes part; no limit when None.
    """

    low, high = _limits(thresholds, ceilings, len(factors))
    arrays = as_array(vectors)
    if arrays is None:
        return _sum_formula(vectors, factors, low, high)
    import numpy as np

    from genepool.kernels import compiled

    total = np.empty(arrays.shape[1:], np.float32)
    compiled.trimmed_sum(
        arrays.reshape(len(factors), -1),
        float32_array(factors),
        float32_array(low),
        float32_array(high),
        total.reshape(-1),
    )
    return of_kind(total, vectors)


def l1_norms(
    vectors: Any, *, thresholds: Sequence[float] | None = None, ceilings: Sequence[float] | None = None
) -> np.ndarray[Any, Any]:
    """The L1 norm of every vector over the entries that take part, `(k,)` float64.

    Args:
        vectors: `(k, ...)` float32.
        thresholds, ceilings: as for `trimmed_sum`.
    """
    import numpy as np

    low, high = _limits(thresholds, ceilings, len(vectors))
    arrays = as_array(vectors)
    if arrays is None:
        return np.array([float(_norm_formula(*part)) for part in zip(vectors, low, high, strict=True)])
    from genepool.kernels import compiled

    lows, highs = float32_array(low), float32_array(high)
    norms = [
        compiled.magnitude_sum(vector.reshape(-1), lows[i : i + 1], highs[i : i + 1]) for i, vector in enumerate(arrays)
    ]
    return np.array(norms)


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
