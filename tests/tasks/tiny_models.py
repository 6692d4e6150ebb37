"""Random tiny models, whole folders as transformers saves them: one with a token per character, one with merges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

CHARACTERS = "abcdefgh =0123456789\n.:+"
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def character_tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {text: number for number, text in enumerate([*SPECIAL, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **_special())


def merging_tokenizer() -> Any:
    """Byte-level BPE with a few merges, so that a text has many sequences of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = [("a", "b"), ("c", "d"), ("Ġ", "a"), ("ab", "cd"), ("1", "2"), ("Ċ", "Ċ"), ("a", "Ċ")]
    single = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: n for n, text in enumerate([*SPECIAL, *single, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **_special())


def _special() -> dict[str, str]:
    return {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write_model(folder: Path, *, seed: int = 0, kind: str = "llama", merging: bool = False, **changes: Any) -> Path:
    """Saves a random model; its weights are wide apart, so that what it writes varies."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MixtralConfig

    tokenizer = merging_tokenizer() if merging else character_tokenizer()
    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.6,
    }
    wide = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    wide["max_position_embeddings"] = 40
    few = {"num_key_value_heads": 1, "num_local_experts": 2}
    configs: dict[str, Callable[[], Any]] = {
        "llama": lambda: LlamaConfig(**{**wide, **shared, **changes}),
        "gpt2": lambda: GPT2Config(**{"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, **shared, **changes}),
        "gpt_neox": lambda: GPTNeoXConfig(**{**wide, **shared, **changes}),
        "mixtral": lambda: MixtralConfig(**{**wide, **few, **shared, **changes}),
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configs[kind]())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
