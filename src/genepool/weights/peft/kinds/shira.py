"""SHiRA: a few entries of the weight trained, at the places of a mask (arXiv:2406.13175)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, TRANSPOSED, declared, unused

if TYPE_CHECKING:
    import torch


class SHiRA(Kind):
    """A sparse change; its places are in the file."""

    peft_type = "SHIRA"
    title = "SHiRA"
    source = "arXiv:2406.13175"
    prefix = "shira_"
    parts = ("shira_weight", "shira_indices")
    settings = declared(
        {
            **COMMON,
            "target_modules": TARGETING["target_modules"],
            **TRANSPOSED,
            "r": unused("the shapes in the file tell it"),
            "mask_type": unused("the places are in the file"),
            "random_seed": unused("the places are in the file"),
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("shira_weight")
        count = found[0] if len(found) == 1 else 1
        layer.expect("shira_weight", (count,))
        layer.expect("shira_indices", (2, count))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        rows, columns = layer.indices("shira_indices")
        if len(rows) and (min(rows.min(), columns.min()) < 0 or rows.max() >= layer.out_features):
            raise _outside(layer)
        if len(rows) and columns.max() >= layer.in_features:
            raise _outside(layer)
        places = rows * layer.in_features + columns
        change = torch.zeros(layer.out_features * layer.in_features)
        change.index_add_(0, places, layer.read("shira_weight"))
        return change.reshape(layer.out_features, layer.in_features)


def _outside(layer: Layer) -> Exception:
    return layer.error(
        f"names entries outside {layer.module}, which is {layer.out_features} by {layer.in_features}",
        "The file is damaged, or was made for another model: save it again",
    )
