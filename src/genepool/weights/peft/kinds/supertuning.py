"""Super-Tuning: the weight's largest entries trained, with a product of low rank beside them (arXiv:2607.09287)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, TRAINING, declared, read, unused

if TYPE_CHECKING:
    import torch


class SuperTuning(Kind):
    """A sparse change plus `lora_alpha / r * B A`."""

    peft_type = "SUPERTUNING"
    title = "Super-Tuning"
    source = "arXiv:2607.09287"
    prefix = "supertuning_"
    parts = (
        "supertuning_values",
        "supertuning_indices",
        "supertuning_lora_A.weight",
        "supertuning_lora_B.weight",
    )
    # Places that are not in the file are those of the base's largest entries.
    needs_base = True
    settings = declared(
        {
            **COMMON,
            "target_modules": TARGETING["target_modules"],
            "sparsity": unused("the shapes in the file tell it"),
            "select_top": read("which entries are trained, where their places are not in the file"),
            "r": unused("the shapes in the file tell it"),
            "lora_alpha": read("scale of the product, divided by its rank"),
            "lora_dropout": TRAINING,
            "init_weights": START,
            "save_precomputed_indices": unused("the places are in the file, or they are not"),
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.size("supertuning_values")
        count = min(found[0] if len(found) == 1 else 1, layer.out_features * layer.in_features)
        layer.expect("supertuning_values", (count,))
        if "supertuning_indices" in layer:
            layer.expect("supertuning_indices", (count,))
        if "supertuning_lora_A.weight" in layer:
            rank = layer.size("supertuning_lora_A.weight")[0]
            layer.expect("supertuning_lora_A.weight", (rank, layer.in_features))
            layer.expect("supertuning_lora_B.weight", (layer.out_features, rank))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        values = layer.read("supertuning_values")
        entries = layer.out_features * layer.in_features
        if "supertuning_indices" in layer:
            places = layer.indices("supertuning_indices")
            if len(places) and not 0 <= int(places.min()) <= int(places.max()) < entries:
                raise layer.error(
                    f"names entries outside {layer.module}, which has {entries}",
                    "The file is damaged, or was made for another model: save it again",
                )
        else:
            sizes = layer.weight().abs().reshape(-1)
            places = torch.topk(sizes, len(values), largest=layer.settings.get("select_top") is not False).indices
        change = torch.zeros(entries).index_add_(0, places, values).reshape(layer.out_features, layer.in_features)
        if "supertuning_lora_A.weight" in layer:
            a, b = layer.read("supertuning_lora_A.weight"), layer.read("supertuning_lora_B.weight")
            change.addmm_(b, a, alpha=layer.settings.number("lora_alpha", a.shape[0]) / a.shape[0])
        return change
