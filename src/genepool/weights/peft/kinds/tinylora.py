"""TinyLoRA: the base's first singular vectors, mixed by a matrix made of a short trained vector (arXiv:2602.04118)."""

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


class TinyLoRA(Kind):
    """`B (sum_i v_i P_i) A`; which vector v is a module's is told by its place among the adapted ones."""

    peft_type = "TINYLORA"
    title = "TinyLoRA"
    source = "arXiv:2602.04118"
    prefix = "tinylora_"
    parts = ("tinylora_A", "tinylora_B", "tinylora_P")
    shared = ("tinylora_v.*",)
    by_order = True
    settings = declared(
        {
            **COMMON,
            **{key: TARGETING[key] for key in ("target_modules", "layers_to_transform", "layers_pattern")},
            **BIAS,
            **TRANSPOSED,
            "r": unused("the shapes in the file tell it"),
            "u": unused("the shapes in the file tell it"),
            "weight_tying": read("how many modules share a vector"),
            "projection_seed": read("the seed of P, where it is not in the file"),
            "save_projection": unused("P is in the file, or it is not"),
            "tinylora_dropout": TRAINING,
            "init_v_bound": START,
            "init_weights": START,
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        if not 0 <= settings.number("weight_tying", 0) <= 1:
            raise settings.error("weight_tying", "got a number outside 0 to 1")

    def check(self, layer: Layer) -> None:
        rank = layer.size("tinylora_A")[0]
        rows, columns = layer.out_features, layer.in_features
        if layer.layout == "embedding":
            rows, columns = columns, rows
        layer.expect("tinylora_A", (rank, columns))
        layer.expect("tinylora_B", (rows, rank))
        entries = layer.shared_size(self._vector(layer))
        layer.expect(self._vector(layer), (entries[0],), entries)
        if "tinylora_P" in layer:
            layer.expect("tinylora_P", (entries[0], rank, rank))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        a, b, vector = layer.read("tinylora_A"), layer.read("tinylora_B"), layer.shared(self._vector(layer))
        rank = a.shape[0]
        if "tinylora_P" in layer:
            projection = layer.read("tinylora_P")
        else:
            seed = layer.settings.integer("projection_seed", 42) + list(layer.siblings()).index(layer.module)
            generator = torch.Generator().manual_seed(seed)
            projection = torch.normal(0.0, rank**-0.5, (len(vector), rank, rank), generator=generator)
        change = b @ torch.einsum("i,ijk->jk", vector, projection) @ a
        return change.T if layer.layout == "embedding" else change

    def _vector(self, layer: Layer) -> str:
        """The name of the vector that a module shares with its neighbours."""
        modules = list(layer.siblings())
        groups = max(1, round(len(modules) * (1 - layer.settings.number("weight_tying", 0))))
        size = max(1, len(modules) // groups)
        return f"tinylora_v.{min(modules.index(layer.module) // size, groups - 1)}"
