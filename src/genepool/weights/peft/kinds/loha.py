"""LoHa: the entrywise product of two products of low rank (FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.lycoris import LYCORIS, rank_scale, tucker
from genepool.weights.peft.layer import Layer

if TYPE_CHECKING:
    import torch


class LoHa(Kind):
    """`alpha / r * (A1 B1) * (A2 B2)`; with cores, each factor is a Tucker decomposition of a kernel."""

    peft_type = "LOHA"
    title = "LoHa"
    source = "arXiv:2108.06098"
    prefix = "hada_"
    parts = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
    settings = LYCORIS

    def check(self, layer: Layer) -> None:
        if "hada_t1" in layer:
            for number in "12":
                rank = layer.size(f"hada_t{number}")[0]
                layer.expect(f"hada_w{number}_a", (rank, layer.shape[0]))
                layer.expect(f"hada_w{number}_b", (rank, layer.shape[1]))
                layer.expect(f"hada_t{number}", (rank, rank, *(*layer.kernel, 1)[:2]))
            return
        for number in "12":
            rank = layer.size(f"hada_w{number}_b")[0]
            layer.expect(f"hada_w{number}_a", (layer.out_features, rank))
            layer.expect(f"hada_w{number}_b", (rank, layer.in_features))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        first, second = self._factor(layer, "1"), self._factor(layer, "2")
        return first.mul_(second).mul_(rank_scale(layer, layer.size("hada_w1_b")[0]))

    def _factor(self, layer: Layer, number: str) -> torch.Tensor:
        a, b = layer.read(f"hada_w{number}_a"), layer.read(f"hada_w{number}_b")
        if f"hada_t{number}" not in layer:
            return a @ b
        return tucker(layer.read(f"hada_t{number}"), a, b).reshape(layer.out_features, layer.in_features)
