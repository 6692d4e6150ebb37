"""GLoRA: the weight and the bias scaled and shifted by low-rank, vector or scalar paths (arXiv:2306.07967)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, declared, unused

if TYPE_CHECKING:
    import torch

_FORM = unused("the file tells the form of a path")


class GLoRA(Kind):
    """`W + W * A + B` and `b + b * D + E + W C`."""

    peft_type = "GLORA"
    title = "GLoRA"
    source = "arXiv:2306.07967"
    prefix = "glora_"
    parts = tuple(f"glora_{path}.{part}" for path in "ABCDE" for part in ("Xd", "Xu", "X", "zeros"))
    needs_base = True
    settings = declared(
        {
            **COMMON,
            "target_modules": TARGETING["target_modules"],
            **BIAS,
            "r": unused("the shapes in the file tell it"),
            "config_A_B": _FORM,
            "config_C": _FORM,
            "config_D_E": _FORM,
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        whole = (layer.out_features, layer.in_features)
        shapes = {"A": whole, "B": whole, "C": (layer.in_features, 1)}
        for path, (rows, columns) in shapes.items():
            if f"glora_{path}.Xd" in layer:
                rank = layer.size(f"glora_{path}.Xd")[-1]
                layer.expect(f"glora_{path}.Xd", (rows, rank))
                layer.expect(f"glora_{path}.Xu", (rank, columns))
            elif f"glora_{path}.X" in layer and layer.size(f"glora_{path}.X") != (1,):
                layer.expect(f"glora_{path}.X", (rows, 1))
        for path in "DE":
            if f"glora_{path}.X" in layer and layer.size(f"glora_{path}.X") != (1,):
                layer.expect(f"glora_{path}.X", (layer.out_features,))

    def leaves(self, layer: Layer) -> tuple[str, ...]:
        return ("weight", "bias") if layer.has_bias() else ("weight",)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        weight = layer.weight()
        if leaf == "bias":
            bias = layer.bias()
            moved = bias * self._path(layer, "D") + self._path(layer, "E")
            column = self._path(layer, "C")
            return moved + (weight @ column.expand(layer.in_features, 1)).reshape(-1)
        return torch.broadcast_to(weight * self._path(layer, "A") + self._path(layer, "B"), weight.shape)

    def _path(self, layer: Layer, path: str) -> torch.Tensor:
        """A path's value; 0 where it is left out."""
        import torch

        if f"glora_{path}.Xd" in layer:
            return layer.read(f"glora_{path}.Xd") @ layer.read(f"glora_{path}.Xu")
        return layer.read(f"glora_{path}.X") if f"glora_{path}.X" in layer else torch.zeros(1)
