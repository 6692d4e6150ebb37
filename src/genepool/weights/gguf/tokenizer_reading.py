"""The tokenizer of a GGUF file as the files of a model folder, made of the header alone.

What comes out splits text as llama.cpp does with the same keys, and as transformers does when it reads the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from genepool.errors import InputError
from genepool.weights.file_bytes import DAMAGED
from genepool.weights.gguf.header import GgufHeader
from genepool.weights.gguf.settings import token_id
from genepool.weights.gguf.vocabularies import (
    BYTE,
    BYTE_LEVEL,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    SENTENCEPIECE,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    implied_merges,
)

_KEY = "tokenizer.ggml."
# The longest token of a SentencePiece model: its trainer's default is 16, and every way to cut a token is tried.
_LONGEST = 256
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_files(header: GgufHeader) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json; empty when the file holds no tokenizer.

    Raises:
        InputError: the file's tokenizer is of a kind that is not read here, or contradicts itself.
    """
    kind = header.text(f"{_KEY}model")
    if kind in ("", "none", "no_vocab"):
        return {}
    if kind not in (BYTE_LEVEL, SENTENCEPIECE):
        raise InputError(
            f"got the tokenizer {kind!r}, expected {BYTE_LEVEL} or {SENTENCEPIECE}",
            where=header.where(f"{_KEY}model"),
            fix="Use the model in Hugging Face's layout",
        )
    found = _Vocabulary(header, kind)
    return {
        "tokenizer.json": json.dumps(found.tokenizer(), ensure_ascii=False) + "\n",
        "tokenizer_config.json": json.dumps(found.settings(), indent=2, ensure_ascii=False) + "\n",
    }


class _Vocabulary:
    """The tokens of a file, checked, and what is made of them."""

    def __init__(self, header: GgufHeader, kind: str) -> None:
        self.header, self.kind = header, kind
        self.tokens: list[str] = header.entries(f"{_KEY}tokens", str)
        if not self.tokens:
            raise InputError("is missing", where=header.where(f"{_KEY}tokens"), fix=DAMAGED)
        self.types: list[int] = header.entries(f"{_KEY}token_type", int, len(self.tokens)) or [NORMAL] * len(
            self.tokens
        )
        self.numbers = {text: number for number, text in enumerate(self.tokens) if self.types[number] != UNUSED}
        if len(self.numbers) != sum(one != UNUSED for one in self.types):
            raise InputError("a token appears twice", where=header.where(f"{_KEY}tokens"), fix=DAMAGED)
        self.special = {role: token_id(header, key, len(self.tokens)) for role, key in _SPECIAL.items()}
        self.adds_start = header.flag(f"{_KEY}add_bos_token", kind == SENTENCEPIECE)
        self.adds_end = header.flag(f"{_KEY}add_eos_token", False)

    def tokenizer(self) -> dict[str, Any]:
        """tokenizer.json."""
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added(),
            **(self._byte_level() if self.kind == BYTE_LEVEL else self._sentencepiece()),
            "post_processor": self._frame(),
        }

    def settings(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        named = {role: self.tokens[number] for role, number in self.special.items() if number is not None}
        template = self.header.text("tokenizer.chat_template")
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **named,
            **({"chat_template": template} if template else {}),
        }

    def _added(self) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "content": self.tokens[number],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != USER_DEFINED,
            }
            for number, kind in enumerate(self.types)
            if kind in (CONTROL, USER_DEFINED) or (kind == UNKNOWN and self.kind == SENTENCEPIECE)
        ]

    def _byte_level(self) -> dict[str, Any]:
        name = self.header.text(f"{_KEY}pre", "gpt-2")
        if name not in PRE_TOKENIZERS:
            raise InputError(
                f"got the pre-tokenizer {name!r}, expected {', '.join(PRE_TOKENIZERS)}",
                where=self.header.where(f"{_KEY}pre"),
                fix="Use the model in Hugging Face's layout",
            )
        splits = PRE_TOKENIZERS[name]
        parts = splits.parts()
        return {
            "normalizer": {"type": "NFC"} if splits.normalised else None,
            "pre_tokenizer": parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": _model(self.numbers, self._merges(), ignore_merges=splits.whole),
        }

    def _merges(self) -> list[tuple[str, str]]:
        key = f"{_KEY}merges"
        merges = []
        for text in self.header.entries(key, str):
            left, _, right = text.partition(" ")
            if not {left, right, left + right} <= self.numbers.keys():
                raise InputError(
                    f"the merge {text!r} is not of two known tokens", where=self.header.where(key), fix=DAMAGED
                )
            merges.append((left, right))
        return merges

    def _sentencepiece(self) -> dict[str, Any]:
        spaced = self.header.flag(f"{_KEY}add_space_prefix", True)
        mergeable = {
            text: number
            for text, number in self.numbers.items()
            if self.types[number] == NORMAL and len(text) <= _LONGEST
        }
        scores = self.header.entries(f"{_KEY}scores", float, len(self.tokens))
        if not scores:
            raise InputError("is missing", where=self.header.where(f"{_KEY}scores"), fix=DAMAGED)
        merges = implied_merges(mergeable, {text: scores[number] for text, number in mergeable.items()})
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if spaced else []
        unknown = self.special["unk_token"]
        if unknown is None:
            unknown = next((number for number, kind in enumerate(self.types) if kind == UNKNOWN), None)
        return {
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Metaspace",
                "replacement": SPACE,
                "prepend_scheme": "first" if spaced else "never",
                "split": False,
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    *strip,
                ],
            },
            "model": _model(
                self.numbers,
                merges,
                unk_token=None if unknown is None else self.tokens[unknown],
                fuse_unk=True,
                byte_fallback=BYTE in self.types,
            ),
        }

    def _frame(self) -> dict[str, Any] | None:
        """What is put around a text."""
        start = self.special["bos_token"] if self.adds_start else None
        end = self.special["eos_token"] if self.adds_end else None
        framing = [self.tokens[number] for number in (start, end) if number is not None]
        if not framing:
            return None

        def around(sequence: str, kind: int) -> list[dict[str, Any]]:
            pieces: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": kind}}]
            if start is not None:
                pieces.insert(0, {"SpecialToken": {"id": self.tokens[start], "type_id": kind}})
            if end is not None:
                pieces.append({"SpecialToken": {"id": self.tokens[end], "type_id": kind}})
            return pieces

        known = {text: {"id": text, "ids": [self.numbers[text]], "tokens": [text]} for text in framing}
        return {
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": around("A", 0) + around("B", 1),
            "special_tokens": known,
        }


def _model(numbers: dict[str, int], merges: Sequence[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": numbers,
        "merges": [list(pair) for pair in merges],
    }
