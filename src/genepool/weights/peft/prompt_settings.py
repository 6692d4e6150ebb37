"""PEFT's adapters that put vectors before every input, where a form of ours computes the same: their settings.

They change no weight, so they are asked and never merged; `genepool.weights.formed.peft_prompts` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Mapping

from genepool.weights.peft.settings import COMMON, START, Setting, read, refused, unused

_TOLD = unused("the tensor in the file tells it, with the base's config")
_FIX = "Use it with PEFT beside the model it was trained on"
_PROMPT: Mapping[str, Setting] = {
    **COMMON,
    "task_type": read("CAUSAL_LM alone: other models have a head that is not in the file"),
    "num_virtual_tokens": read("how many vectors there are, which must be as many as in the file"),
    "token_dim": _TOLD,
    "num_attention_heads": _TOLD,
    "num_layers": _TOLD,
    "num_transformer_submodules": refused("only decoders are read", _FIX, off=(None, 1)),
    "modules_to_save": refused("modules that are trained whole beside it would be lost", _FIX, off=(None, [])),
}
#: PEFT's name of a kind -> the form that computes the same, and what is done with each setting.
PROMPTS: Mapping[str, tuple[str, Mapping[str, Setting]]] = {
    "PREFIX_TUNING": (
        "prefix",
        {
            **_PROMPT,
            "encoder_hidden_size": START,
            "prefix_projection": unused("PEFT writes what the projection gives"),
            "init_weights": START,
        },
    ),
    "PROMPT_TUNING": (
        "prompt",
        {
            **_PROMPT,
            "prompt_tuning_init": START,
            "prompt_tuning_init_text": START,
            "tokenizer_name_or_path": START,
            "tokenizer_kwargs": START,
        },
    ),
}
