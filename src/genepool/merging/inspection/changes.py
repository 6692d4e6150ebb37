"""A model's change of one tensor, read piece by piece.

Checkpoints are pages of files, of which any piece can be read alone. Everything else (adapters, skills, merges) gives
its change itself, whole, through `Weights.delta`: exactly, without the rounding of a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from genepool.weights import Checkpoint, Weights

if TYPE_CHECKING:
    import torch

View = Callable[["torch.Tensor"], "torch.Tensor"]
Change = Callable[[View], "torch.Tensor"]


def read_change(model: Weights, tensor: str, base: Weights, base_tensor: str) -> Change | None:
    """A reader of pieces of `model[tensor] - base[base_tensor]`, in float32.

    Returns:
        A function that takes a view of the tensor (a slice, a reshape) and gives that piece of the change; None when
        the model is known not to change the tensor.
    """
    import torch

    if tensor == base_tensor and not (isinstance(model, Checkpoint) and isinstance(base, Checkpoint)):
        delta = model.delta(tensor, base)
        return None if delta is None else lambda view: view(delta)
    ours, theirs = model.read(tensor), base.read(base_tensor)
    return lambda view: view(ours).to(torch.float32) - view(theirs).to(torch.float32)


def flat_piece(start: int, stop: int) -> View:
    """The view of entries `start` to `stop`, in row-major order."""
    return lambda tensor: tensor.reshape(-1)[start:stop]
