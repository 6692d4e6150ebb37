"""The digits testbed's model: a vision transformer of 0.14 million parameters in plain torch.

Its tensors are named as large ones are (`blocks.3.attn.qkv.weight`), so that layers and roles are found. Stored as an
ordinary checkpoint folder: config.json and safetensors. The testbed trains it, `DigitsModel` asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.tasks.models.digits import CLASSES, MODEL_TYPE, SIDE

PATCH = 4
# A merge changes no size, so anything large is not ours.
_LARGEST, _DEEPEST = 4096, 256
_PATCHES = (SIDE // PATCH) ** 2


@dataclass(frozen=True)
class Shape:
    """What decides the tensors' shapes: width, number of blocks, attention heads, inner width of the MLPs."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int

    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return {
            "architectures": ["DigitsTransformer"],
            "model_type": MODEL_TYPE,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.feed_forward,
            "num_labels": CLASSES,
            "image_size": SIDE,
            "patch_size": PATCH,
            "dtype": "float32",
        }

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, where: str) -> Shape:
        """The shape that a config.json describes.

        Raises:
            InputError: it is not one of a digits model.
        """
        if config is None or config.get("model_type") != MODEL_TYPE:
            raise InputError(
                "is not a model of the digits testbed", where=where, fix="Name a model built with --bed digits"
            )
        where = f"{where}:config.json"
        sizes: list[int] = []
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            size = config.get(key)
            most = _DEEPEST if key == "num_hidden_layers" else _LARGEST
            if not is_whole(size, 1, most):
                raise InputError(
                    f"got {size!r:.40} for `{key}`, expected a whole number from 1 to {most}",
                    where=where,
                    fix="Copy the base's config.json",
                )
            sizes.append(size)
        if sizes[0] % sizes[2]:
            raise InputError(
                f"the width {sizes[0]} is not a multiple of the {sizes[2]} heads",
                where=where,
                fix="Copy the base's config.json",
            )
        return cls(*sizes)


class Attention(nn.Module):
    """Self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, places, width = x.shape
        query, key, value = self.qkv(x).view(count, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(count, places, width))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class TransformerBlock(nn.Module):
    """Attention and MLP, each normed before and added after."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.hidden)
        self.attn = Attention(shape.hidden, shape.heads)
        self.norm2 = nn.LayerNorm(shape.hidden)
        self.mlp = Mlp(shape.hidden, shape.feed_forward)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class DigitsTransformer(nn.Module):
    """Four patches of 4 x 4 pixels and a class token; pixels (n, 64) in, logits (n, 10) out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = nn.Linear(PATCH * PATCH, shape.hidden)
        self.position_embed = nn.Parameter(torch.zeros(1 + _PATCHES, shape.hidden))
        self.class_token = nn.Parameter(torch.zeros(shape.hidden))
        self.blocks = nn.ModuleList(TransformerBlock(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.hidden)
        self.head = nn.Linear(shape.hidden, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.states(pixels)[-1][:, 0]))
        return logits

    def states(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """What stands behind the embedding and every block: (n, 5, hidden) each, the class token first."""
        count, across = len(pixels), SIDE // PATCH
        patches = pixels.view(count, across, PATCH, across, PATCH).transpose(2, 3).reshape(count, _PATCHES, -1)
        x = torch.cat([self.class_token.expand(count, 1, -1), self.patch_embed(patches)], dim=1) + self.position_embed
        found = [x]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found
