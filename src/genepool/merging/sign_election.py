"""Sign election and the disjoint mean of TIES (arXiv:2306.01708, section 3), shared by every method that elects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def elected_signs(weighted: Sequence[torch.Tensor], zero_sign: float) -> torch.Tensor:
    """The sign with the larger total mass per entry.

    Args:
        weighted: trimmed task vectors times their weights, all of one shape.
        zero_sign: sign where the sum is exactly zero: +1 or -1.

    Returns:
        A tensor of +1 and -1 of the same shape.
    """
    import torch

    total = weighted[0].clone()
    for vector in weighted[1:]:
        total += vector
    signs = torch.sign(total)
    return torch.where(signs == 0, torch.full_like(signs, zero_sign), signs)


def disjoint_sum(
    weighted: Sequence[torch.Tensor], weights: Sequence[float], signs: torch.Tensor, normalize: bool
) -> torch.Tensor:
    """The sum of the entries that agree with the elected sign, divided by their weights when `normalize`.

    With equal weights the normalised form is the paper's mean over agreeing, non-zero entries.
    """
    import torch

    total, divisor = torch.zeros_like(signs), torch.zeros_like(signs)
    for vector, weight in zip(weighted, weights, strict=True):
        # Trimmed entries are zero and have no sign, so they agree with nothing.
        agrees = torch.sign(vector) == signs
        total += torch.where(agrees, vector, 0.0)
        divisor += agrees * weight
    if normalize:
        total /= torch.where(divisor == 0, 1.0, divisor)
    return total
