"""The images in a batch, whatever a kind of model calls them, and batches with other images. Uses torch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.tasks.models import Model

#: What kinds of model call their images: with channels, or one row of pixels.
_NAMES = ("pixel_values", "pixels")


def reads_images(kind: type[Model]) -> bool:
    """Whether the batches of a kind of model have images."""
    return kind.reads == "image" or getattr(kind, "input_name", None) in _NAMES


def images_of(batch: AnswerBatch, where: str) -> torch.Tensor:
    """The images, (rows, channels, height, width).

    Args:
        batch: as a model reads it.
        where: what asks for them, for errors.

    Raises:
        InputError: it has none.
    """
    name = next((name for name in _NAMES if name in batch.inputs), None)
    if name is None:
        raise InputError(
            "pseudo, rotation and pretraining are for images, and the tasks have none",
            where=where,
            fix="Leave them out",
        )
    pixels = batch.inputs[name]
    if pixels.dim() == 2:
        side = math.isqrt(pixels.shape[1])
        pixels = pixels.view(len(pixels), 1, side, -1)
    return pixels


def with_images(batch: AnswerBatch, images: torch.Tensor) -> AnswerBatch:
    """The batch with other images, of the shape that `images_of` gave."""
    name = next(name for name in _NAMES if name in batch.inputs)
    return replace(batch, inputs={**batch.inputs, name: images.reshape(batch.inputs[name].shape)})


def turned(batch: AnswerBatch, quarters: int, where: str) -> AnswerBatch:
    """The batch with its images turned.

    Args:
        batch: as a model reads it.
        quarters: of a full turn.
        where: what asks for it, for errors.

    Raises:
        InputError: it has no images, or they are not square.
    """
    import torch

    if not quarters:
        return batch
    images = images_of(batch, where)
    height, width = images.shape[-2:]
    if height != width:
        raise InputError(
            f"images of {height} x {width} cannot be turned by a quarter",
            where=where,
            fix="Set pseudo and rotation to 0",
        )
    return with_images(batch, torch.rot90(images, quarters, (-2, -1)))


def second_view(batch: AnswerBatch, generator: torch.Generator, where: str) -> AnswerBatch:
    """The batch with its images moved by up to a pixel in each direction, and with noise.

    Args:
        batch: as a model reads it.
        generator: of the processor, what is drawn comes from.
        where: what asks for it, for errors.

    Raises:
        InputError: it has no images.
    """
    import torch

    images = images_of(batch, where)
    steps = torch.randint(-1, 2, (len(images), 2), generator=generator).tolist()
    moved = torch.stack([torch.roll(one, tuple(step), (-2, -1)) for one, step in zip(images, steps, strict=True)])
    noise = torch.randn(images.shape, generator=generator).to(images)
    return with_images(batch, moved + _NOISE * images.std() * noise)


#: Noise of a view, in standard deviations of the images.
_NOISE = 0.1
