"""HRA: the weight times a chain of Householder reflections (arXiv:2405.17484)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, declared, read, unused

if TYPE_CHECKING:
    import torch


class HRA(Kind):
    """`W H1 ... Hr` with `H = I - 2 u u^T`; orthogonalised, `W (I - 2 U U^T)`."""

    peft_type = "HRA"
    title = "HRA"
    source = "arXiv:2405.17484"
    prefix = "hra_"
    parts = ("hra_u",)
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            "r": unused("the rank is that of the tensors in the file"),
            "apply_GS": read("whether the vectors are made orthogonal first"),
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("hra_u")
        layer.expect("hra_u", (layer.in_features, found[1] if len(found) == 2 else 1))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        vectors, weight = layer.read("hra_u"), layer.weight()
        if layer.settings.flag("apply_GS"):
            units: list[torch.Tensor] = []
            for column in vectors.T:
                for unit in units:
                    column = column - (unit @ column) * unit
                units.append(column / column.norm())
            basis = torch.stack(units, 1)
            return -2 * (weight @ basis) @ basis.T
        turned = weight.clone()
        for column in vectors.T:
            unit = column / column.norm()
            turned.addr_(turned @ unit, unit, alpha=-2)
        return turned.sub_(weight)
