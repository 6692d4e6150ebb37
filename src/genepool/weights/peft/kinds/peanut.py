"""PEANuT: a small network of the weight itself gives the change (arXiv:2410.01870)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, AdapterSettings, declared, read, unused

if TYPE_CHECKING:
    import torch


class PEANuT(Kind):
    """`scaling * (f(W^T A^T) B^T)^T`, f a few layers with residuals."""

    peft_type = "PEANUT"
    title = "PEANuT"
    source = "arXiv:2410.01870"
    prefix = "peanut_"
    parts = ("peanut_A.weight", "peanut_B.weight", "peanut_encoders.*.weight", "peanut_decoders.*.weight")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            "r": unused("the shapes in the file tell it"),
            "depth": unused("the file holds as many layers"),
            "act_fn": read("the activation of the network"),
            "scaling": read("scale"),
            "init_weights": START,
        }
    )

    def refuse(self, settings: AdapterSettings) -> None:
        from transformers.activations import ACT2FN

        settings.choice("act_fn", sorted(ACT2FN), "relu")

    def check(self, layer: Layer) -> None:
        rank = layer.size("peanut_A.weight")[0]
        layer.expect("peanut_A.weight", (rank, layer.out_features))
        layer.expect("peanut_B.weight", (layer.out_features, rank))
        for number in range(self._depth(layer)):
            layer.expect(f"peanut_encoders.{number}.weight", (rank, rank))
            layer.expect(f"peanut_decoders.{number}.weight", (rank, rank))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        from transformers.activations import ACT2FN

        bend = ACT2FN[str(layer.settings.choice("act_fn", sorted(ACT2FN), "relu"))]
        depth = self._depth(layer)
        hidden = bend(layer.weight().T @ layer.read("peanut_A.weight").T)
        residuals = []
        for number in range(depth):
            residuals.append(hidden)
            hidden = bend(hidden @ layer.read(f"peanut_encoders.{number}.weight").T)
        for number in range(depth):
            hidden = bend(hidden @ layer.read(f"peanut_decoders.{number}.weight").T) + residuals[depth - 1 - number]
        change: torch.Tensor = layer.read("peanut_B.weight") @ hidden.T
        return change * layer.settings.number("scaling", 1)

    def _depth(self, layer: Layer) -> int:
        return sum(bool(re.fullmatch(r"peanut_encoders\.\d+\.weight", part)) for part in layer.parts)
