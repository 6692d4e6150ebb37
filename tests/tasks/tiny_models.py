"""Random tiny models, whole folders as transformers saves them: one with a token per character, one with merges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def _put_ends(tokenizer: Any) -> None:
    """Makes a tokenizer put a token at either end of a text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )


def _special() -> dict[str, str]:
    return {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write_model(
    folder: Path,
    *,
    seed: int = 0,
    kind: str = "llama",
    merging: bool = False,
    closing: bool = False,
    **changes: Any,
) -> Path:
    """Saves a random model; its weights are wide apart, so that what it writes varies.

    A closing tokenizer puts a token at either end of a text.
    """
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MixtralConfig, OPTConfig

    tokenizer = merging_tokenizer() if merging else character_tokenizer()
    if closing:
        _put_ends(tokenizer)
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
        "opt": lambda: OPTConfig(**{**wide, "ffn_dim": 24, "word_embed_proj_dim": 16, **shared, **changes}),
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configs[kind]())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_classifier(folder: Path, *, seed: int = 0, labels: Sequence[str] = ("bad", "good"), **changes: Any) -> Path:
    """Saves a random BERT that classifies texts, with a token per character and one at either end of a text."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = character_tokenizer()
    _put_ends(tokenizer)
    torch.manual_seed(seed)
    settings = {**_small(), "vocab_size": len(tokenizer), "max_position_embeddings": 40, "pad_token_id": 0}
    config = BertConfig(**{**settings, **_named(labels), **changes})
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_translator(folder: Path, *, seed: int = 0, kind: str = "t5", merging: bool = False, **changes: Any) -> Path:
    """Saves a random T5 or BART whose weights are wide apart."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

    tokenizer = merging_tokenizer() if merging else character_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    shared = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    halves = {f"{half}_{what}": n for half in ("encoder", "decoder") for what, n in _HALF.items()}
    small = {"d_model": 16, "max_position_embeddings": 40, "init_std": 0.6, **halves}
    first = {"bos_token_id": 1, "forced_bos_token_id": 5, "forced_eos_token_id": None}
    configs: dict[str, Callable[[], Any]] = {
        "t5": lambda: T5Config(**{"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2,
                                  "initializer_factor": 4.0, "n_positions": 40, **shared, **changes}),
        "bart": lambda: BartConfig(**{**small, **shared, **first, **changes}),
    }  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForSeq2SeqLM.from_config(configs[kind]()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_image_classifier(folder: Path, *, seed: int = 0, labels: Sequence[str] = ("cat", "dog", "owl")) -> Path:
    """Saves a random ViT for images of 8 x 8 pixels, with its image processor."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(seed)
    config = ViTConfig(**_small(), image_size=8, patch_size=4, **_named(labels))
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


_HALF = {"layers": 2, "attention_heads": 2, "ffn_dim": 24}


def _named(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def _small() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.6,
    }
