"""The convolutional network of the streams: transformers' ResNet with batch norms, on digits at twice their size.

Trained on clean digits by `builder`; its streams hold one channel of 16 x 16 pixels. Uses torch and transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from genepool.seeding import derive
from genepool.tasks.models.digits import CLASSES, SIDE

#: How many pixels stand for one, in each direction.
LARGER = 2
SHAPE = (1, LARGER * SIDE, LARGER * SIDE)


class ConvDigits(nn.Module):
    """A ResNet of two stages that is shown digits; pixels (n, 64) in, logits (n, 10) out.

    Args:
        seed: decides where its weights start. torch's global generator is used for it.
        tiny: of half the width.
    """

    def __init__(self, seed: int, *, tiny: bool) -> None:
        from transformers import ResNetConfig, ResNetForImageClassification

        super().__init__()
        torch.manual_seed(derive(seed, "streams conv"))
        width = 8 if tiny else 16
        names = {at: str(at) for at in range(CLASSES)}
        config = ResNetConfig(
            num_channels=1,
            embedding_size=width,
            hidden_sizes=[width, 2 * width],
            depths=[1, 1],
            layer_type="basic",
            id2label=names,
            label2id={name: at for at, name in names.items()},
        )
        self.network: Any = ResNetForImageClassification(config)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The logits, shape (n, 10)."""
        grid = pixels.view(-1, 1, SIDE, SIDE).repeat_interleave(LARGER, -1).repeat_interleave(LARGER, -2)
        logits: torch.Tensor = self.network(pixel_values=grid).logits
        return logits

    def save(self, place: Path) -> None:
        """Writes it as transformers does, with the processor that image files would need."""
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        self.network.save_pretrained(place)
        ViTImageProcessorPil(size={"height": SHAPE[1], "width": SHAPE[2]}).save_pretrained(place)


def enlarged(pixels: Any) -> list[Any]:
    """One image as the network's streams write it: nested lists of one channel of 16 x 16 pixels.

    Args:
        pixels: shape (64,), from 0 to 1.
    """
    grid = np.asarray(pixels).reshape(SIDE, SIDE).repeat(LARGER, 0).repeat(LARGER, 1)
    found: list[Any] = grid.reshape(SHAPE).tolist()
    return found
