"""LN tuning: normalisation layers trained whole (arXiv:2312.11420)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, TARGETING, declared

if TYPE_CHECKING:
    import torch


class LNTuning(Kind):
    """The trained layer in place of the base's."""

    peft_type = "LN_TUNING"
    title = "LN tuning"
    source = "arXiv:2312.11420"
    prefix = "ln_tuning_"
    parts = ("ln_tuning_layers.weight", "ln_tuning_layers.bias")
    needs_base = True
    settings = declared({**COMMON, **{key: TARGETING[key] for key in ("target_modules", "exclude_modules")}})

    def check(self, layer: Layer) -> None:
        for leaf in self.leaves(layer):
            layer.expect(f"ln_tuning_layers.{leaf}", layer.info(leaf).shape)

    def leaves(self, layer: Layer) -> tuple[str, ...]:
        return tuple(leaf for leaf in ("weight", "bias") if f"ln_tuning_layers.{leaf}" in layer)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        base = layer.stored_weight() if leaf == "weight" else layer.bias()
        return layer.read(f"ln_tuning_layers.{leaf}") - base
