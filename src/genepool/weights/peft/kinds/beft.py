"""BEFT: a vector added to the output of a module, which is its bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, declared

if TYPE_CHECKING:
    import torch


class Beft(Kind):
    """`b + v`."""

    peft_type = "BEFT"
    title = "BEFT"
    source = "PEFT's beft/layer.py"
    prefix = "beft_"
    parts = ("beft_bias",)
    settings = declared({**COMMON, "target_modules": TARGETING["target_modules"], "init_weights": START})

    def check(self, layer: Layer) -> None:
        layer.expect("beft_bias", (1, layer.out_features))
        if not layer.has_bias():
            raise layer.error(
                f"adds to the bias of {layer.module}, and the base has none there",
                "PEFT cannot merge it either: use it with PEFT beside the base",
            )

    def leaves(self, layer: Layer) -> tuple[str, ...]:
        return ("bias",)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        return layer.read("beft_bias").reshape(-1)
