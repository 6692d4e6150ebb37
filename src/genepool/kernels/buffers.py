"""What kernels are given beside blocks: room for results, which must not leave holes in the heap, and short lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


def empty(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """An uninitialised float32 tensor.

    On the processor its memory is numpy's. Torch asks for aligned memory, which glibc before 2.38 does not find again
    among what was freed: the heap of a thread that merges by DARE grew by a megabyte for every few blocks.
    """
    import numpy as np
    import torch

    if torch.device(device).type != "cpu":
        return torch.empty(tuple(shape), dtype=torch.float32, device=device)
    return torch.from_numpy(np.empty(tuple(shape), np.float32))


def float32_array(values: Sequence[float]) -> np.ndarray[Any, Any]:
    """A parameter of every model, as compiled loops take them."""
    import numpy as np

    return np.array(values, dtype=np.float32)
