"""Small models to inspect, in memory."""

from __future__ import annotations

import torch

from genepool.weights import TensorWeights

Tensors = dict[str, torch.Tensor]


def random_model(seed: int, layers: int = 3, scale: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (9, 8), "model.norm.weight": (8,)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.self_attn.{kind}_proj.weight": (8, 8) for kind in "qkvo"}
        shapes |= {f"model.layers.{i}.mlp.{kind}_proj.weight": (12, 8) for kind in ("gate", "up")}
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (8, 12)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def moved(base: Tensors, change: Tensors, by: float = 1.0) -> Tensors:
    return {name: value + by * change[name] if name in change else value for name, value in base.items()}


def weights(**models: Tensors) -> list[TensorWeights]:
    return [TensorWeights(made, name) for name, made in models.items()]
