"""How much better than expected the tokens of a sample are: generalised advantages. Uses torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generalised_advantages(rewards: torch.Tensor, values: torch.Tensor, discount: float, decay: float) -> torch.Tensor:
    """A_t = d_t + discount decay A_(t+1) with d_t = r_t + discount V_(t+1) - V_t, and nothing after the last token.

    Schulman et al., arXiv:1506.02438, eq. 16.

    Args:
        rewards: of every token of one sample, shape (tokens,).
        values: what was expected from the token on, shape (tokens,).
        discount: part of a later reward that counts.
        decay: lambda.

    Example:
        >>> import torch
        >>> generalised_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), 1.0, 0.5).tolist()
        [0.125, 0.75]
    """
    import torch

    found = torch.zeros_like(rewards)
    after, value = 0.0, 0.0
    for token in range(len(rewards) - 1, -1, -1):
        error = float(rewards[token]) + discount * value - float(values[token])
        after = error + discount * decay * after
        value = float(values[token])
        found[token] = after
    return found


def whitened(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same with mean 0 and variance 1 (of a sample, n - 1) over the entries of all parts together."""
    import torch

    whole = torch.cat(list(parts))
    centred = whole - whole.mean()
    variance = centred.square().sum() / max(1, len(whole) - 1)
    white = centred * torch.rsqrt(variance + 1e-8)
    return list(torch.split(white, [len(part) for part in parts]))
