"""DeLoRA: directions of length one times a trained strength (arXiv:2503.18225)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.encodings.low_rank import Product
from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, TRAINING, declared, unused

if TYPE_CHECKING:
    import torch


class DeLoRA(Kind):
    """`lambda / r * sum_i b_i a_i^T / (|b_i| |a_i|)`, columns times the norms of the base's."""

    peft_type = "DELORA"
    title = "DeLoRA"
    source = "arXiv:2503.18225"
    prefix = "delora_"
    parts = ("delora_A", "delora_B", "delora_lambda", "delora_w_norm")
    # The norms are those of the base that PEFT started from; where the file lacks them they are taken of the base.
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            "r": unused("the shapes in the file tell it"),
            "rank_pattern": unused("the shapes in the file tell it"),
            "delora_lambda": START,
            "lambda_pattern": START,
            "module_dropout": TRAINING,
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        rank = layer.size("delora_A")[0]
        layer.expect("delora_A", (rank, layer.in_features))
        layer.expect("delora_B", (layer.out_features, rank))
        layer.expect("delora_lambda", (1,))
        if "delora_w_norm" in layer:
            layer.expect("delora_w_norm", (layer.in_features,))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        product = self.product(layer)
        return product.left @ product.right

    def product(self, layer: Layer) -> Product:
        a, b = layer.read("delora_A"), layer.read("delora_B")
        lengths = a.norm(dim=1).clamp_min(1e-4) * b.norm(dim=0).clamp_min(1e-4)
        norms = layer.read("delora_w_norm") if "delora_w_norm" in layer else layer.weight().norm(dim=0)
        scale = layer.read("delora_lambda") / len(a) / lengths
        return Product(b * scale, a * norms)
