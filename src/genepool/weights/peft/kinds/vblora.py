"""VB-LoRA: factors put together of vectors of one bank, a weighted few for each piece (arXiv:2405.15179)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TARGETING, TRAINING, TRANSPOSED, declared, read, unused

if TYPE_CHECKING:
    import torch


class VBLoRA(Kind):
    """`B A`, each piece of a factor the softmax-weighted sum of its top vectors."""

    peft_type = "VBLORA"
    title = "VB-LoRA"
    source = "arXiv:2405.15179"
    prefix = "vblora_"
    parts = tuple(f"vblora_logits_{side}{end}" for side in "AB" for end in ("", "_topk_indices", "_topk_weights"))
    shared = ("vblora_vector_bank",)
    settings = declared(
        {
            **COMMON,
            **TARGETING,
            **BIAS,
            **TRANSPOSED,
            "r": unused("the shapes in the file tell it"),
            "num_vectors": unused("the shapes in the file tell it"),
            "vector_length": unused("the shapes in the file tell it"),
            "topk": read("how many vectors a piece is of"),
            "save_only_topk_weights": unused("the file holds all weights or the few"),
            "vblora_dropout": TRAINING,
            "init_vector_bank_bound": START,
            "init_logits_std": START,
        }
    )

    def check(self, layer: Layer) -> None:
        vectors, length = self._bank_size(layer)
        for side, features, axis in (("A", layer.in_features, 1), ("B", layer.out_features, 0)):
            found = layer.size(self._main(layer, side))
            pieces = features // length
            rank = found[1 - axis] if len(found) == 3 else 1
            last = vectors if self._main(layer, side) == f"vblora_logits_{side}" else found[-1]
            layer.expect(self._main(layer, side), (rank, pieces, last) if axis else (pieces, rank, last))
            if pieces * length != features:
                raise layer.error(f"has vectors of {length}, which do not divide {layer.module}", "Save it again")
            if f"vblora_logits_{side}_topk_indices" in layer:
                layer.expect(f"vblora_logits_{side}_topk_weights", (*found[:2], found[2] - 1))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        a, b = self._factor(layer, "A"), self._factor(layer, "B")
        return b.transpose(1, 2).reshape(-1, b.shape[1]) @ a.reshape(a.shape[0], -1)

    def _factor(self, layer: Layer, side: str) -> torch.Tensor:
        """A factor in pieces, `(rank, pieces, length)` or `(pieces, rank, length)`."""
        import torch

        bank = layer.shared("vblora_vector_bank")
        if f"vblora_logits_{side}_topk_indices" in layer:
            places = layer.indices(f"vblora_logits_{side}_topk_indices")
            known = layer.read(f"vblora_logits_{side}_topk_weights")
            weights = torch.cat((known, 1 - known.sum(-1, keepdim=True)), -1)
            if not 0 <= int(places.min()) <= int(places.max()) < len(bank):
                raise layer.error(f"names vectors beyond the {len(bank)} there are", "Save the adapter again")
        else:
            logits = layer.read(f"vblora_logits_{side}")
            top, places = logits.topk(min(layer.settings.integer("topk", 2, 1), logits.shape[-1]), dim=-1)
            weights = top.softmax(-1)
        return (weights.unsqueeze(-1) * bank[places]).sum(-2)

    def _main(self, layer: Layer, side: str) -> str:
        few = f"vblora_logits_{side}_topk_indices"
        return few if few in layer else f"vblora_logits_{side}"

    def _bank_size(self, layer: Layer) -> tuple[int, int]:
        found = layer.shared_size("vblora_vector_bank")
        if len(found) != 2 or not all(found):
            layer.expect("vblora_vector_bank", (256, 256), found)
        return found[0], found[1]
