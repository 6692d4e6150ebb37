"""Affine transformations of images whose distribution is learned: what a teacher is asked beside the images given.

The trainer of `hard` moves it. Uses torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: What a transformation is made of: an angle in radians, the logarithm of a scale, a shear, and shifts across and down
#: in halves of the image. Each lies between minus its limit and its limit.
LIMITS = {"rotation": 0.8, "log_scale": 0.4, "shear": 0.4, "across": 0.5, "down": 0.5}
# Of the values before the limits, at the start.
_SPREAD = 0.3


class Augmenter:
    """A distribution over affine transformations: limit * tanh(mean + spread * noise) for each of five numbers.

    Args:
        device: where it computes.

    Attributes:
        mean: before the limits, shape (5,); 0 at the start, where the transformations lie around none.
        log_spread: logarithm of the spread, shape (5,).
    """

    def __init__(self, device: torch.device) -> None:
        import math

        import torch

        self.mean = torch.nn.Parameter(torch.zeros(len(LIMITS), device=device))
        self.log_spread = torch.nn.Parameter(torch.full((len(LIMITS),), math.log(_SPREAD), device=device))
        self._limits = torch.tensor(list(LIMITS.values()), device=device)

    def drawn(self, noise: torch.Tensor) -> torch.Tensor:
        """Transformations, (images, 5), with gradients, from standard normal noise of this shape."""
        import torch

        return self._limits * torch.tanh(self.mean + self.log_spread.exp() * noise.to(self.mean))


def transformed(images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Images under affine transformations, of the same shape, with gradients to these.

    Args:
        images: (images, channels, height, width).
        drawn: (images, 5), in the order of `LIMITS`. A shift of 1 across moves what is seen by half the width to the
            left; what comes in from outside repeats the border.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    angle, log_scale, shear, across, down = drawn.to(torch.float32).unbind(-1)
    cos, sin, scale = angle.cos(), angle.sin(), log_scale.exp()
    # Rotation times scale times shear.
    first = torch.stack([scale * cos, scale * (shear * cos - sin), across], -1)
    second = torch.stack([scale * sin, scale * (shear * sin + cos), down], -1)
    grid = affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    found = grid_sample(images.to(torch.float32), grid, padding_mode="border", align_corners=False)
    return found.to(images.dtype)


def augmented(inputs: Mapping[str, torch.Tensor], drawn: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """The inputs of an image classifier with its images transformed; None where they hold no images.

    Args:
        inputs: what a network is called with: `pixel_values` (images, channels, height, width), or `pixels` of square
            images row by row, (images, side * side).
        drawn: as for `transformed`.
    """
    if "pixel_values" in inputs:
        return {**inputs, "pixel_values": transformed(inputs["pixel_values"], drawn)}
    if "pixels" in inputs:
        rows = inputs["pixels"]
        side = round(rows.shape[-1] ** 0.5)
        images = rows.reshape(len(rows), 1, side, side)
        return {**inputs, "pixels": transformed(images, drawn).reshape(rows.shape)}
    return None
