"""GraLoRA: a product of low rank for every block of the weight (arXiv:2505.20355)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class GraLoRA(Kind):
    """Block (i, j) is `B_i,j A_i,j`; a plain product of low rank may be added to all of it."""

    peft_type = "GRALORA"
    title = "GraLoRA"
    source = "arXiv:2505.20355"
    prefix = "gralora_"
    parts = ("gralora_A", "gralora_B", "gralora_A_general.weight", "gralora_B_general.weight")
    settings = declared(
        {
            **COMMON,
            **{key: TARGETING[key] for key in ("target_modules", "layers_to_transform", "layers_pattern")},
            **BIAS,
            **TRANSPOSED,
            "r": unused("the shapes in the file tell it"),
            "hybrid_r": unused("the shapes in the file tell it"),
            "gralora_k": unused("the shapes in the file tell it"),
            "alpha": read("scale, divided by both ranks"),
            "gralora_dropout": TRAINING,
            "init_weights": START,
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        settings.number("alpha", 64)

    def check(self, layer: Layer) -> None:
        found = layer.size("gralora_A")
        blocks, rank = max(1, found[0]), found[-1]
        layer.expect("gralora_A", (blocks, layer.in_features // blocks, rank))
        layer.expect("gralora_B", (blocks, rank, layer.out_features // blocks))
        if rank % blocks or layer.in_features % blocks or layer.out_features % blocks:
            raise layer.error(
                f"has {blocks} blocks a side, which do not divide its rank of {rank} or {layer.module}", "Save it again"
            )
        if "gralora_A_general.weight" in layer:
            hybrid = layer.size("gralora_A_general.weight")[0]
            layer.expect("gralora_A_general.weight", (hybrid, layer.in_features))
            layer.expect("gralora_B_general.weight", (layer.out_features, hybrid))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        a, b = layer.read("gralora_A"), layer.read("gralora_B")
        blocks, inputs, rank = a.shape
        # Inputs' block j gives output block i the ranks that are its own: rank i * (r / k) onwards of A_j, j of B_i.
        split_a = a.reshape(blocks, inputs, blocks, rank // blocks)
        split_b = b.reshape(blocks, blocks, rank // blocks, -1)
        change = torch.einsum("jnir,ijro->iojn", split_a, split_b).reshape(layer.out_features, layer.in_features)
        hybrid = 0
        if "gralora_A_general.weight" in layer:
            general = layer.read("gralora_A_general.weight")
            hybrid = general.shape[0]
            change = change + layer.read("gralora_B_general.weight") @ general
        return change * (layer.settings.number("alpha", 64) / (rank + hybrid))
