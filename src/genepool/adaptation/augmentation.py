"""Small changes of images under which their class stays: a shift by one pixel at most, and grain.

Shared by adapters that compare an image with a changed one. What the change costs the source is measured first: an
augmentation that a model cannot stand teaches it nonsense. Draws belong to (seed, number, purpose).
"""

from __future__ import annotations

import math

import torch

from genepool.adaptation.adapter import SourceExamples
from genepool.adaptation.stream_model import Inputs, StreamModel
from genepool.errors import InputError
from genepool.seeding import torch_generator

#: An augmentation that takes more accuracy from the source than this is told of; ours.
DEAR = 0.02
#: What inputs of images are called.
IMAGE_KEYS = ("pixels", "pixel_values")
#: Spread of the grain, as a share of the way from black to white; ours.
GRAIN = 0.05


def reads_images(inputs: Inputs) -> bool:
    """Whether a batch holds images that can be changed."""
    return any(one in inputs.parts[0][1] for one in IMAGE_KEYS)


def image_key(inputs: Inputs, title: str) -> str:
    """What the images of a batch are called.

    Raises:
        InputError: there are none.
    """
    key = next((one for one in IMAGE_KEYS if one in inputs.parts[0][1]), None)
    if key is None:
        raise InputError(
            "reads no images, which this adapter changes a little", where=title, fix="Choose another --adapter"
        )
    return key


def augmented(inputs: Inputs, seed: int, number: int, purpose: str, title: str) -> Inputs:
    """The images of a batch, each shifted by one pixel at most and grained.

    Args:
        inputs: of a batch.
        seed, number, purpose: what the draws belong to.
        title: of the model, for errors.

    Raises:
        InputError: the inputs are no images.
    """
    key = image_key(inputs, title)
    images = inputs.whole(key)
    generator = torch_generator(seed, "augmentation", purpose, number)
    flat = images.dim() == 2
    side = math.isqrt(images.shape[-1])
    grid = images.view(len(images), 1, side, -1) if flat else images
    drawn = torch.randint(0, 5, (len(images),), generator=generator).tolist()
    moved = torch.stack([_shifted(one, *_SHIFTS[way]) for one, way in zip(grid, drawn, strict=True)])
    grain = torch.randn(moved.shape, generator=generator).to(moved.device, moved.dtype)
    return inputs.mapped(key, (moved + GRAIN * grain).reshape(images.shape))


_SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def _shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """An image moved by whole pixels, shape (channels, height, width); the edge is repeated."""
    height, width = image.shape[-2:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return image[..., rows, :][..., columns]


def augmentation_cost(model: StreamModel, source: SourceExamples, seed: int) -> float:
    """How much accuracy the augmentation takes from the source model on source examples, in points of 1.

    Args:
        model: as it was trained.
        source: examples with labels.
        seed: of the draws.
    """
    lost, count = 0.0, 0
    for number, (inputs, targets) in enumerate(zip(source.batches, source.targets, strict=True)):
        plain = model.probabilities(inputs).argmax(-1) == targets
        changed = model.probabilities(augmented(inputs, seed, number, "cost", model.title)).argmax(-1) == targets
        lost += float(plain.sum() - changed.sum())
        count += len(targets)
    return lost / max(count, 1)


def told_cost(cost: float | None) -> str:
    """What an augmentation costs, as a clause.

    Args:
        cost: as `augmentation_cost` gives it; None where it could not be measured.
    """
    if cost is None:
        return "augmentations cost the model an unknown accuracy, as the stream has no source examples"
    much = ": it cannot stand them, and may collapse" if cost > DEAR else ""
    return f"augmentations cost the model {100 * cost:.1f} points of accuracy on source examples{much}"
