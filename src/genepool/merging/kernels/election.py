"""Sign election and the disjoint mean of TIES (arXiv:2306.01708, section 3), shared by every method that elects."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def elect(
    vectors: torch.Tensor,
    weights: Sequence[float],
    *,
    scales: Sequence[float] | None = None,
    normalize: bool,
    zero_sign: float = 1.0,
    thresholds: Sequence[float] | None = None,
) -> tuple[torch.Tensor, int]:
    """Per entry, elects the sign with the larger total mass and adds up the vectors that agree with it.

    Args:
        vectors: k task vectors, `(k, ...)` float32, already trimmed or to be trimmed by `thresholds`.
        weights: one for each; they scale the votes and the sum.
        scales: a further factor of each vector that its weight in the mean does not count; 1 when None.
        normalize: divide by the weights of the agreeing, non-zero entries; with equal weights that is the paper's mean.
        zero_sign: sign where the votes cancel exactly: +1 or -1.
        thresholds: smallest magnitude of each model that takes part; 0 when None.

    Returns:
        The merged vector, of the shape of one, and the sum of the elected signs over all entries (0 where the votes
        cancel), from which the majority sign of a whole vector is told.
    """
    low = list(thresholds) if thresholds is not None else [0.0] * len(weights)
    factors = [weight * scale for weight, scale in zip(weights, scales or [1.0] * len(weights), strict=True)]
    if vectors.device.type != "cpu":
        return _formula(vectors, factors, weights, low, zero_sign, normalize)
    from genepool.merging.kernels import compiled

    merged = torch.empty(vectors.shape[1:], dtype=torch.float32)
    votes = compiled.elect(
        vectors.reshape(len(weights), -1).numpy(),
        torch.tensor(factors, dtype=torch.float32).numpy(),
        torch.tensor(weights, dtype=torch.float32).numpy(),
        torch.tensor(low, dtype=torch.float32).numpy(),
        zero_sign,
        normalize,
        merged.reshape(-1).numpy(),
    )
    return merged, int(votes)


def _formula(
    vectors: torch.Tensor,
    factors: Sequence[float],
    weights: Sequence[float],
    low: Sequence[float],
    zero_sign: float,
    normalize: bool,
) -> tuple[torch.Tensor, int]:
    total, merged, divisor = (torch.zeros_like(vectors[0]) for _ in range(3))

    def trimmed() -> list[torch.Tensor]:
        triples = zip(vectors, low, factors, strict=True)
        return [torch.where(vector.abs() >= threshold, vector, 0.0) * factor for vector, threshold, factor in triples]

    for weighted in trimmed():
        total += weighted
    signs = torch.sign(total)
    votes = int(signs.sum(dtype=torch.float64))
    signs[signs == 0] = zero_sign
    for weighted, weight in zip(trimmed(), weights, strict=True):
        # Trimmed entries are zero and have no sign, so they agree with nothing.
        agrees = torch.sign(weighted) == signs
        merged += torch.where(agrees, weighted, 0.0)
        divisor += agrees * weight
    if normalize:
        merged /= torch.where(divisor == 0, 1.0, divisor)
    return merged, votes
