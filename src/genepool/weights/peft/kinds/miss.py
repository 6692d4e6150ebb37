"""MiSS, once Bone: blocks of the weight that share one trained matrix (arXiv:2409.15371)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, TARGETING, TRAINING, AdapterSettings, declared, read, unused

if TYPE_CHECKING:
    import torch

_FORMS = (True, False, "bat", "mini")


class MiSS(Kind):
    """The trained matrix, repeated along the inputs; in the form bat, each block of the weight times it is added."""

    peft_type = "MISS"
    title = "MiSS"
    source = "arXiv:2409.15371"
    prefix = "miss_"
    parts = ("miss_block",)
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            "r": unused("the shapes in the file tell it"),
            "mini_r": unused("the shapes in the file tell it"),
            "miss_dropout": TRAINING,
            "init_weights": read("the form: bat, mini or the plain one"),
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        settings.choice("init_weights", _FORMS, True)

    def check(self, layer: Layer) -> None:
        found = layer.size("miss_block")
        rank, width = found[0], found[-1]
        form = self._form(layer)
        if form == "bat":
            layer.expect("miss_block", (layer.out_features // max(1, width), width, width))
            if layer.out_features % width or layer.in_features % width:
                raise layer.error(f"has blocks of {width}, which do not divide {layer.module}", "Save it again")
            return
        expected = width if form == "mini" and width and layer.out_features % width == 0 else layer.out_features
        layer.expect("miss_block", (max(1, rank), expected))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        block = layer.read("miss_block")
        form = self._form(layer)
        if form == "bat":
            size = block.shape[-1]
            weight = layer.weight().reshape(layer.out_features // size, size, layer.in_features // size, size)
            changed = weight.permute(2, 0, 1, 3) @ block + block
            return changed.permute(1, 2, 0, 3).reshape(layer.out_features, layer.in_features)
        if form == "mini":
            block = block.repeat(1, layer.out_features // block.shape[1])
        copies = -(-layer.in_features // block.shape[0])
        return block.T.repeat(1, copies)[:, : layer.in_features]

    def _form(self, layer: Layer) -> object:
        return layer.settings.choice("init_weights", _FORMS, True)
