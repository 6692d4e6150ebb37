"""Tiny models of the architectures llama.cpp knows, with tokenizers trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genepool.weights.gguf.vocabularies import PRE_TOKENIZERS, SPACE, implied_merges

TEXTS = [
    "the quick brown fox jumps over the lazy dog. I've 1234 numbers, don't you?  spaces\n\n and lines",
    "Hello world! It's 2024 and we're here. \u00e7\u00e0 \u00e9toile \u4f60\u597d \U0001f680 done",
    "one two three four five six seven eight nine ten the theory thereof",
]
PROMPTS = ["the quick brown", "Hello 123,  \u00e9toile \u4f60\n\nwe're", "<|im_start|>one<|im_end|> \U0001f680"]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_level(pre: str) -> Any:
    """A byte-level BPE tokenizer that splits text as llama.cpp's `pre` does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    known = PRE_TOKENIZERS[pre]
    parts = json.loads(Tokenizer(models.BPE()).to_str())
    steps = known.parts()
    parts["pre_tokenizer"] = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    parts["normalizer"] = {"type": "NFC"} if known.normalised else None
    parts["model"]["ignore_merges"] = known.whole
    core = Tokenizer.from_str(json.dumps(parts))
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template="{% for one in messages %}<|im_start|>{{ one.content }}<|im_end|>{% endfor %}",
    )


def sentencepiece(**settings: Any) -> Any:
    """A tokenizer as transformers has Llama 2's: BPE of pieces, with bytes to fall back on."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=True)
    core.train_from_iterator(
        [text[:70] for text in TEXTS] * 5, trainers.BpeTrainer(vocab_size=140, show_progress=False)
    )
    pieces = sorted(core.get_vocab(), key=lambda piece: (len(piece) == 1, core.get_vocab()[piece]))
    scores = {piece: -float(place) for place, piece in enumerate(pieces)}
    control = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {text: number for number, text in enumerate([*control, *pieces])}
    merges = implied_merges({piece: vocab[piece] for piece in pieces}, scores)
    return LlamaTokenizer(vocab=vocab, merges=merges, **settings)


def tiny_model(folder: Path, architecture: str, tokenizer: Any, seed: int = 0, **changes: Any) -> Path:
    """A folder with a model that has random weights everywhere, norms and biases too."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    kinds = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
    settings = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(kinds[architecture](**settings))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data = ("norm" in name) + 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
