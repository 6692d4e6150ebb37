"""AdaLoRA: LoRA in the form of a singular value decomposition, its ranks shared out in training (arXiv:2303.10512)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.encodings.low_rank import Product
from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.lora import LORA
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import TRAINING, declared, read, unused

if TYPE_CHECKING:
    import torch


class AdaLoRA(Kind):
    """`alpha / init_r * B diag(E) A`."""

    peft_type = "ADALORA"
    title = "AdaLoRA"
    source = "arXiv:2303.10512"
    prefix = "lora_"
    parts = ("lora_A", "lora_B", "lora_E")
    # Its budget may leave a module no rank.
    may_be_empty = ("lora_A", "lora_B", "lora_E")
    settings = declared(
        {
            **LORA,
            "r": unused("init_r stands for it"),
            "rank_pattern": unused("the shapes in the file tell it"),
            "alpha_pattern": unused("PEFT does not use it here"),
            "use_rslora": unused("PEFT does not use it here"),
            "init_r": read("the rank that training began with, which the scale is divided by"),
            **dict.fromkeys(
                ("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"), TRAINING
            ),
        }
    )

    def check(self, layer: Layer) -> None:
        rank = layer.size("lora_A")[0]
        layer.expect("lora_A", (rank, layer.in_features))
        layer.expect("lora_B", (layer.out_features, rank))
        layer.expect("lora_E", (rank, 1))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        product = self.product(layer)
        return product.left @ product.right * product.factor

    def product(self, layer: Layer) -> Product:
        rank = layer.settings.integer("init_r", 12, 1)
        alpha = layer.settings.number("lora_alpha", 8)
        # PEFT's own safeguard against a rank of none.
        factor = (alpha if alpha > 0 else rank) / (rank + 1e-5)
        return Product(layer.read("lora_B"), layer.read("lora_A") * layer.read("lora_E"), factor)
