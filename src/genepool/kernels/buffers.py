"""What kernels are given and give back: numpy arrays or torch tensors, room for results, and short lists."""

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


def as_array(values: Any) -> np.ndarray[Any, Any] | None:
    """An array or a tensor of the processor as an array of the same memory; None for a tensor of another device."""
    import numpy as np

    if isinstance(values, np.ndarray):
        return values
    array: np.ndarray[Any, Any] | None = values.numpy() if values.device.type == "cpu" else None
    return array


def sliceable(values: Any) -> Any:
    """The same memory as an array where it can be: slices of it are made ten times as fast as those of a tensor."""
    array = as_array(values)
    return values if array is None else array


def of_kind(array: np.ndarray[Any, Any], given: Any) -> Any:
    """An array as what `given` is: itself, or a tensor of the same memory."""
    import numpy as np

    if isinstance(given, np.ndarray):
        return array
    import torch

    return torch.from_numpy(array)


def add_scaled(base: Any, vector: Any, factor: float = 1.0) -> Any:
    """`base + factor * vector` in float32, written into `vector`; both are arrays or both are tensors."""
    import numpy as np

    if isinstance(vector, np.ndarray):
        with np.errstate(all="ignore"):
            np.multiply(vector, np.float32(factor), out=vector)
            return np.add(vector, base, out=vector)
    return vector.mul_(factor).add_(base)


def float32_array(values: Sequence[float]) -> np.ndarray[Any, Any]:
    """A parameter of every model, as compiled loops take them."""
    import numpy as np

    # What is too large is infinite: the loops tell of results that are.
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32)
