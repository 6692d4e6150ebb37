"""DEFT: a subspace of the outputs taken out of the weight and written anew (PEFT's deft/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.encodings.low_rank import Product
from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import (
    BIAS,
    COMMON,
    START,
    TARGETING,
    TRAINING,
    TRANSPOSED,
    AdapterSettings,
    declared,
    read,
    unused,
)

if TYPE_CHECKING:
    import torch

_METHODS = ("relu", "qr")


class DEFT(Kind):
    """`Q (R - P^T W)`, Q and P out of one trained matrix."""

    peft_type = "DEFT"
    title = "DEFT"
    source = "PEFT's deft/layer.py"
    prefix = "deft_"
    parts = ("deft_P", "deft_R")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            **TRANSPOSED,
            "r": unused("the shapes in the file tell it"),
            "decomposition_method": read("how the subspace is made: relu or qr"),
            "alpha": read("scale of what is written, divided by the rank"),
            "para": read("whether the subspace is taken out alone"),
            "init_scale": START,
            "deft_dropout": TRAINING,
            "init_weights": START,
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        settings.choice("decomposition_method", _METHODS, "relu")

    def check(self, layer: Layer) -> None:
        rank = layer.size("deft_P")[-1]
        layer.expect("deft_P", (layer.out_features, min(rank, layer.out_features)))
        if not layer.settings.flag("para"):
            layer.expect("deft_R", (rank, layer.in_features))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        product = self.product(layer)
        return product.left @ product.right

    def product(self, layer: Layer) -> Product:
        import torch

        trained = layer.read("deft_P")
        if layer.settings.choice("decomposition_method", _METHODS, "relu") == "qr":
            left = right = torch.linalg.qr(trained)[0]
        else:
            left, right = trained, trained.relu()
        removed = right.T @ layer.weight()
        if layer.settings.flag("para"):
            return Product(left, -removed)
        alpha = layer.settings.number("alpha", 0)
        scale = alpha / trained.shape[1] if alpha else 1.0
        return Product(left, layer.read("deft_R") * scale - removed)
