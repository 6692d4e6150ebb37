"""(IA)3: every output, or every input of feed-forward layers, times a number (arXiv:2205.05638)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, TRANSPOSED, declared, read

if TYPE_CHECKING:
    import torch


class IA3(Kind):
    """`W * l`, along the inputs for feed-forward modules and along the outputs, the bias too, for others."""

    peft_type = "IA3"
    title = "(IA)³"
    source = "arXiv:2205.05638"
    prefix = "ia3_"
    parts = ("ia3_l",)
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **{key: TARGETING[key] for key in ("target_modules", "exclude_modules")},
            **TRANSPOSED,
            "feedforward_modules": read("which convolutions scale their inputs; matrices tell it by their shape"),
            "init_ia3_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("ia3_l")
        features = layer.out_features, self._inputs(layer)
        if layer.kernel:
            # A convolution's numbers lie along axis 1 either way, so the setting tells which side they are of.
            side = features[1] if self._is_feedforward(layer) else features[0]
            layer.expect("ia3_l", (1, side, *(1 for _ in layer.kernel)))
        elif found != (1, features[1]):
            layer.expect("ia3_l", (features[0], 1))

    def leaves(self, layer: Layer) -> tuple[str, ...]:
        return ("weight", "bias") if layer.has_bias() and not self._is_feedforward(layer) else ("weight",)

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        scale = layer.read("ia3_l").reshape(-1) - 1
        if leaf == "bias":
            return layer.bias() * scale
        if self._is_feedforward(layer):
            places = layer.in_features // self._inputs(layer)
            return layer.weight() * scale.repeat_interleave(places)
        return layer.weight() * scale.unsqueeze(1)

    def _inputs(self, layer: Layer) -> int:
        return layer.shape[1] if layer.kernel else layer.in_features

    def _is_feedforward(self, layer: Layer) -> bool:
        if not layer.kernel:
            return layer.size("ia3_l")[0] == 1
        names = layer.settings.names("feedforward_modules")
        return any(layer.module == name or layer.module.endswith(f".{name}") for name in names)
