"""HiRA: the weight times a product of low rank, entry by entry (Huang et al., ICLR 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, TRAINING, TRANSPOSED, declared, unused

if TYPE_CHECKING:
    import torch


class HiRA(Kind):
    """`W * (B A)`."""

    peft_type = "HIRA"
    title = "HiRA"
    source = "Huang et al., ICLR 2025"
    prefix = "hira_"
    parts = ("hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **TRANSPOSED,
            "r": unused("the rank is that of the tensors in the file"),
            "rank_pattern": unused("the rank is that of the tensors in the file"),
            "hira_dropout": TRAINING,
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        a, b = self._names(layer)
        rank = layer.size(a)[0]
        layer.expect(a, (rank, *layer.shape[1:]) if layer.kernel else (rank, layer.in_features))
        layer.expect(b, (layer.out_features, rank, *(1 for _ in layer.kernel)))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        a, b = (layer.read(part) for part in self._names(layer))
        return (b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)).mul_(layer.weight())

    def stored_features(self, layer: Layer) -> tuple[int, int] | None:
        a, b = self._names(layer)
        return layer.size(b)[0], layer.size(a)[-1]

    def _names(self, layer: Layer) -> tuple[str, str]:
        return ("hira_embedding_A", "hira_embedding_B") if layer.layout == "embedding" else ("hira_A", "hira_B")
