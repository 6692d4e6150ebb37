"""Which tensors of a model have one row per token, how many rows those are, and where a config says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.weights.roles import infer_roles
from genepool.weights.weights import Weights

# What a config says in ids of tokens, which are those of a tokenizer: they go with it.
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "mask_token_id", "sep_token_id")


def vocabulary_rows(weights: Weights) -> dict[str, int]:
    """The tensors with one row per token (embeddings, heads and their biases) -> how many rows each has.

    Position embeddings are not among them: a tensor counts only if it has as many rows as the config says there are
    tokens, or, without a config, as the first embedding has.
    """
    infos = {name: weights.info(name) for name in weights.names()}
    found = {
        name: infos[name].shape[0]
        for name, role in infer_roles(infos).items()
        if role.part in ("embedding", "head") and role.layer is None and infos[name].shape
    }
    said = _vocab_size(weights.config or {})
    rows = said if said in found.values() else next(iter(found.values()), 0)
    return {name: count for name, count in found.items() if count == rows}


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return size if isinstance(size, int) else None


def with_vocab_size(config: Mapping[str, Any] | None, rows: int) -> Mapping[str, Any] | None:
    """A config that says so many tokens, wherever it says how many there are."""
    if config is None:
        return None
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and "vocab_size" in inner:
        config = {**config, "text_config": {**inner, "vocab_size": rows}}
    return {**config, "vocab_size": rows} if "vocab_size" in config else config
