"""What stands between a file's bytes and a method: differences in float32, and the look for NaN and infinity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    import torch

    # One sum is the cheapest look at every value; only when it is odd is each value asked.
    return math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())


def subtract(a: torch.Tensor, b: torch.Tensor, into: torch.Tensor) -> bool:
    """`into = a - b` in float32.

    Args:
        a, b: of any float types and one shape, contiguous; never written into.
        into: float32, contiguous, of that shape.

    Returns:
        Whether every difference is finite.
    """
    import torch

    if into.device.type == "cpu" and a.dtype == b.dtype == torch.bfloat16:
        from genepool.kernels import compiled

        mine, theirs = (rows.reshape(-1).view(torch.int16).numpy().view("uint16") for rows in (a, b))
        return bool(compiled.subtract(mine, theirs, into.view(-1).numpy()))
    return _formula(a, b, into)


def _formula(a: torch.Tensor, b: torch.Tensor, into: torch.Tensor) -> bool:
    import torch

    if a.dtype == torch.float32:
        torch.sub(a, b.to(torch.float32), out=into)
    else:
        into.copy_(a).sub_(b.to(torch.float32))
    return is_finite(into)
