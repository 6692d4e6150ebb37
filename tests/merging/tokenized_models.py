"""Tiny models with tokenizers that load: every row of a model says whose it is and of which token."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = "model.layers.{}.mlp.up_proj.weight"


def tokenizer_json(tokens: Sequence[str], added: Iterable[str] = ()) -> dict[str, Any]:
    """The content of a tokenizer.json of whole words; added tokens come behind them, special ones in <>."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    entries = [
        {"id": len(tokens) + n, "content": token, **flags, "normalized": token[0] != "<", "special": token[0] == "<"}
        for n, token in enumerate(added)
    ]
    model = {"type": "WordLevel", "vocab": {token: n for n, token in enumerate(tokens)}, "unk_token": tokens[0]}
    return {"version": "1.0", "added_tokens": entries, "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}


def row_of(model: str, token: str, width: int = 2) -> torch.Tensor:
    """What a model's row of a token holds, (width,)."""
    seed = zlib.crc32(f"{model}/{token}".encode())
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def write_model(
    folder: Path,
    tokens: Sequence[str],
    added: Sequence[str] = (),
    *,
    rows: int | None = None,
    head: bool = True,
    tokenizer: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A model without a class, so that planning it needs no transformers."""
    folder.mkdir(parents=True)
    known = [*tokens, *added]
    filled = torch.stack([row_of(folder.name, token) for token in known])
    more = torch.full((max(0, (rows or 0) - len(known)), 2), 9.0)
    tensors = {EMBED: torch.cat([filled, more])[: rows or len(known)]}
    if head:
        tensors[HEAD] = tensors[EMBED] + 1
    tensors |= {LAYER.format(i): row_of(folder.name, f"layer {i}", 4).reshape(2, 2) for i in range(3)}
    save_file({name: value.to(dtype).contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    config = {"vocab_size": len(tensors[EMBED]), "num_hidden_layers": 3, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokens, added)))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": tokens[0]}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
