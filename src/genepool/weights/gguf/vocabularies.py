"""What both ways of a tokenizer share: llama.cpp's kinds of tokens, its pre-tokenizers, merges that scores imply.

Two kinds of tokenizers go both ways: byte-level BPE (llama.cpp's "gpt2") and SentencePiece BPE (its "llama").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# gguf-py/gguf/constants.py, `TokenType`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
SPACE = "\u2581"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How llama.cpp splits text before it merges, by the name in `tokenizer.ggml.pre` (its src/llama-vocab.cpp).

    Attributes:
        pattern: the regular expression whose matches are merged apart; empty for GPT-2's, which is built in.
        whole: whether a piece that is a token is taken whole, without merging (`ignore_merges`).
        digits: whether each digit stands alone before GPT-2's expression is applied.
        normalised: whether models that use it bring text to the normal form NFC first.
    """

    pattern: str = ""
    whole: bool = False
    digits: bool = False
    normalised: bool = False

    def parts(self) -> list[dict[str, Any]]:
        """The steps as tokenizer.json has them."""
        digits = [{"type": "Digits", "individual_digits": True}] if self.digits else []
        split = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not self.pattern}
        return [*digits, *([split] if self.pattern else []), level]


# Of names that mean the same, the first is written.
PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    "gpt-2": PreTokenizer(),
    "llama-bpe": PreTokenizer(_LLAMA3, whole=True),
    "smaug-bpe": PreTokenizer(_LLAMA3),
    "qwen2": PreTokenizer(_QWEN2, normalised=True),
    "tekken": PreTokenizer(_TEKKEN, whole=True),
    "smollm": PreTokenizer(digits=True),
    "llama3": PreTokenizer(_LLAMA3, whole=True),
    "llama-v3": PreTokenizer(_LLAMA3, whole=True),
    "deepseek-r1-qwen": PreTokenizer(_QWEN2, normalised=True),
}


def implied_merges(tokens: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece model: every way to make a token of two, the best token first.

    Args:
        tokens: the ones that can be merged, token -> number.
        scores: of each of them; higher is merged earlier.
    """
    found = [
        (-scores[token], tokens[token[:i]], tokens[token[i:]], token[:i], token[i:])
        for token in tokens
        for i in range(1, len(token))
        if token[:i] in tokens and token[i:] in tokens
    ]
    return [(left, right) for *_, left, right in sorted(found)]
