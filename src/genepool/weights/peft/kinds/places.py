"""The places that FourierFT and WaveFT draw: the first of a permutation of all entries of a weight, from their seed.

torch's generator draws the same permutation on every machine, so the places need not be in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.layer import Layer

if TYPE_CHECKING:
    import torch


def drawn_places(layer: Layer, count: int) -> torch.Tensor:
    """`count` places in the weight `(out, in)`, flattened; takes 8 bytes for every entry of the weight meanwhile."""
    import torch

    seed = layer.settings.integer("random_loc_seed", 777)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(layer.out_features * layer.in_features, generator=generator)[:count]
