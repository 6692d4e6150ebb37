"""What LoHa and LoKr share: their settings, their scale and the Tucker decomposition of a kernel (arXiv:2309.14859)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, TRAINING, Setting, read, unused

if TYPE_CHECKING:
    import torch

LYCORIS: Mapping[str, Setting] = {
    **COMMON,
    **TARGETING,
    "r": unused("the rank is that of the tensors in the file"),
    "rank_pattern": unused("the rank is that of the tensors in the file"),
    "alpha": read("scale, divided by the rank"),
    "alpha_pattern": read("scale of modules by pattern"),
    "rank_dropout": TRAINING,
    "module_dropout": TRAINING,
    "use_effective_conv2d": unused("the file holds cores where kernels are decomposed"),
    "init_weights": START,
}


def rank_scale(layer: Layer, rank: int) -> float:
    """`alpha / r`."""
    alpha = layer.settings.by_module("alpha_pattern", layer.module)
    return (layer.settings.number("alpha", 8) if alpha is None else alpha) / rank


def tucker(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A kernel out of its core `(r, r, h, w)` and the factors of its two sides, `(r, out)` and `(r, in)`."""
    import torch

    return torch.einsum("ijkl,ip,jr->prkl", core, a, b)
