"""Trainable tokens: some rows of an embedding trained, others left as they are (PEFT's trainable_tokens/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import COMMON, START, TARGETING, declared, read

if TYPE_CHECKING:
    import torch


class TrainableTokens(Kind):
    """The trained rows in place of the base's; a head that is tied to the embedding has them too."""

    peft_type = "TRAINABLE_TOKENS"
    title = "trainable tokens"
    source = "PEFT's trainable_tokens/layer.py"
    prefix = "trainable_tokens_"
    parts = ("trainable_tokens_delta",)
    needs_base = True
    settings = declared(
        {
            **{key: setting for key, setting in COMMON.items() if key != "modules_to_save"},
            "target_modules": TARGETING["target_modules"],
            "token_indices": read("which rows"),
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        layer.expect("trainable_tokens_delta", (len(self._tokens(layer)), layer.shape[1]))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        tokens, base = self._tokens(layer), layer.stored_weight()
        change = torch.zeros_like(base)
        change[tokens] = layer.read("trainable_tokens_delta") - base[tokens]
        return change.T if layer.layout == "embedding" else change

    def _tokens(self, layer: Layer) -> list[int]:
        return token_rows(layer, layer.settings.get("token_indices"), "token_indices")


def token_rows(layer: Layer, found: object, key: str) -> list[int]:
    """The rows that a setting names, checked against the embedding."""
    rows = layer.shape[0]
    valid = isinstance(found, list) and all(
        isinstance(token, int) and not isinstance(token, bool) and 0 <= token < rows for token in found
    )
    if not isinstance(found, list) or not valid or len(set(found)) < len(found):
        raise layer.settings.error(
            key, f"expected different rows of {layer.module}, 0 to {rows - 1}, got {found!r:.80}"
        )
    return found
