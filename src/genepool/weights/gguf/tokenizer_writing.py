"""A model's tokenizer as llama.cpp's keys, or one clear error where it has no form for it.

The tokenizer is the one transformers loads, so what is written is what the model is asked with; what it puts around a
text is asked of it, not guessed from its files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool.errors import InputError, files_fault
from genepool.weights.carried import VOCABULARY_FILES
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

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ROLES = {"bos_token_id": "bos", "eos_token_id": "eos", "unk_token_id": "unknown", "pad_token_id": "padding"}
_FIX = "llama.cpp has no form for it: keep the model in Hugging Face's layout"

Value = str | int | bool | Sequence[str] | Sequence[int] | Sequence[float]


def tokenizer_values(folder: Path, rows: int, chat_template: str | None = None) -> dict[str, Value]:
    """llama.cpp's keys for the tokenizer of a model folder.

    Args:
        folder: of the tokenizer.
        rows: rows of the embedding; tokens beyond the tokenizer's own are written as unused.
        chat_template: replaces the tokenizer's own; None to keep it.

    Raises:
        InputError: there is no tokenizer, or llama.cpp has no form for it.
    """
    from transformers import AutoTokenizer

    # transformers makes an empty tokenizer where there is none.
    if not any((folder / file).is_file() for file in VOCABULARY_FILES):
        raise InputError("has no tokenizer", where=folder, fix="Copy the tokenizer of its base to it")
    with files_fault("has no usable tokenizer", where=folder, fix="Copy the base's"):
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        parts = json.loads(loaded.backend_tokenizer.to_str())
    found = _TokenizerFiles(loaded, parts, folder, rows)
    values = found.byte_level() if found.is_byte_level() else found.sentencepiece()
    values |= found.special()
    template = chat_template if chat_template is not None else getattr(loaded, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    return {**values, "tokenizer.chat_template": template} if template else values


class _TokenizerFiles:
    """A tokenizer as tokenizer.json has it, and as transformers holds it.

    Args:
        loaded: transformers'.
        parts: the parsed tokenizer.json.
        folder: where it is from, for errors.
        rows: rows of the embedding.
    """

    def __init__(self, loaded: Any, parts: dict[str, Any], folder: Path, rows: int) -> None:
        self.loaded, self.parts, self.where, self.rows = loaded, parts, folder / "tokenizer.json", rows
        self.model: dict[str, Any] = parts["model"]
        self.added = {one["content"]: one for one in parts["added_tokens"]}
        if self.model.get("type") != "BPE":
            raise self._refused("model", f"a tokenizer of kind {self.model.get('type')}, expected BPE")
        self.merges = [tuple(pair if isinstance(pair, list) else pair.split(" ", 1)) for pair in self.model["merges"]]
        numbers: dict[str, int] = dict(self.model["vocab"])
        numbers |= {text: one["id"] for text, one in self.added.items()}
        self.tokens = {number: text for text, number in numbers.items()}
        if self.tokens and max(self.tokens) >= rows:
            raise InputError(
                f"has the token {max(self.tokens)}, and the model has {rows} embeddings",
                where=self.where,
                fix="Name a model with a tokenizer of its own",
            )

    def is_byte_level(self) -> bool:
        """Whether it merges bytes rather than the pieces of SentencePiece."""
        return (self.parts["decoder"] or {}).get("type") == "ByteLevel"

    def byte_level(self) -> dict[str, Value]:
        """The keys of byte-level BPE."""
        name = self._pre_tokenizer()
        self._refuse_normalizer((None, {"type": "NFC"}))
        if self.model.get("continuing_subword_prefix") or self.model.get("end_of_word_suffix"):
            raise self._refused("model", "marks at the ends of words")
        return {
            "tokenizer.ggml.model": BYTE_LEVEL,
            "tokenizer.ggml.pre": name,
            "tokenizer.ggml.tokens": self._texts(),
            "tokenizer.ggml.token_type": self._types(),
            "tokenizer.ggml.merges": [" ".join(pair) for pair in self.merges],
        }

    def _pre_tokenizer(self) -> str:
        """llama.cpp's name of how text is split."""
        given = self.parts["pre_tokenizer"] or {}
        steps = [_essence(step) for step in given.get("pretokenizers", [given])]
        whole = bool(self.model.get("ignore_merges"))
        for name, known in PRE_TOKENIZERS.items():
            if [_essence(step) for step in known.parts()] == steps and known.whole == whole:
                return name
        raise self._refused("pre_tokenizer", "splits text in a way that is none of " + ", ".join(PRE_TOKENIZERS))

    def sentencepiece(self) -> dict[str, Value]:
        """The keys of SentencePiece BPE."""
        if not self.model.get("byte_fallback"):
            raise self._refused("model", "a BPE of characters without bytes to fall back on")
        scores = self._scores()
        return {
            "tokenizer.ggml.model": SENTENCEPIECE,
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": self._texts(),
            "tokenizer.ggml.scores": [scores.get(number, 0.0) for number in range(self.rows)],
            "tokenizer.ggml.token_type": self._types(),
            "tokenizer.ggml.add_space_prefix": self._prefixes_space(),
        }

    def _prefixes_space(self) -> bool:
        """Whether a space is put before a text."""
        before, splits = self.parts["normalizer"], self.parts["pre_tokenizer"]
        if before is None and splits is not None and splits.get("type") == "Metaspace" and not splits.get("split"):
            return bool(splits.get("prepend_scheme") != "never")
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        prepend = {"type": "Prepend", "prepend": SPACE}
        if splits is None and before == {"type": "Sequence", "normalizers": [prepend, replace]}:
            return True
        if splits is None and before in (replace, {"type": "Sequence", "normalizers": [replace]}):
            return False
        raise self._refused("normalizer", "changes text in another way than SentencePiece does")

    def _scores(self) -> dict[int, float]:
        """The score of each token that is merged; llama.cpp merges to the best one first, as SentencePiece does.

        A merge belongs to the token it makes, and all of a token's merges have one score, so the order of the merges
        must be one of tokens, and no token may be made in fewer ways than it can be.
        """
        order: dict[str, int] = {}
        last = None
        for left, right in self.merges:
            made = left + right
            if made != last and made in order:
                raise self._refused("model.merges", f"merges to {made!r} at two places, as no SentencePiece model does")
            order.setdefault(made, len(order))
            last = made
        pieces = {text: number for number, text in self.tokens.items() if self._type(number) == NORMAL}
        implied = implied_merges(pieces, {text: -float(order.get(text, len(order))) for text in pieces})
        if set(implied) != set(self.merges):
            left, right = min(set(implied) ^ set(self.merges))
            raise self._refused("model.merges", f"merges {left!r} and {right!r} unlike a SentencePiece model")
        return {number: -float(order.get(text, len(order))) for text, number in pieces.items()}

    def special(self) -> dict[str, Value]:
        """The numbers of the special tokens, and which are put around a text."""
        found: dict[str, Value] = {}
        for role, key in _ROLES.items():
            number = getattr(self.loaded, role, None)
            if number is not None:
                found[f"tokenizer.ggml.{key}_token_id"] = int(number)
        start, end = self._frame()
        found["tokenizer.ggml.add_bos_token"] = start
        found["tokenizer.ggml.add_eos_token"] = end
        return found

    def _frame(self) -> tuple[bool, bool]:
        """Whether a text gets a begin and an end token."""
        plain = list(self.loaded("a", add_special_tokens=False).input_ids)
        framed = list(self.loaded("a").input_ids)
        begins = [self.loaded.bos_token_id] if self.loaded.bos_token_id is not None else []
        ends = [self.loaded.eos_token_id] if self.loaded.eos_token_id is not None else []
        for start in (False, True):
            for end in (False, True):
                if framed == [*(begins if start else []), *plain, *(ends if end else [])]:
                    return start and bool(begins), end and bool(ends)
        raise self._refused("post_processor", "puts other tokens around a text than its begin and end token")

    def _texts(self) -> list[str]:
        return [self.tokens.get(number, f"[PAD{number}]") for number in range(self.rows)]

    def _types(self) -> list[int]:
        return [self._type(number) for number in range(self.rows)]

    def _type(self, number: int) -> int:
        text = self.tokens.get(number)
        if text is None:
            return UNUSED
        if not self.is_byte_level():
            if text == self.model.get("unk_token"):
                return UNKNOWN
            if _BYTE.fullmatch(text):
                return BYTE
        if (added := self.added.get(text)) is not None:
            return CONTROL if added["special"] else USER_DEFINED
        return NORMAL

    def _refuse_normalizer(self, known: tuple[object, ...]) -> None:
        if self.parts["normalizer"] not in known:
            raise self._refused("normalizer", f"changes text first ({self.parts['normalizer'].get('type')})")

    def _refused(self, key: str, what: str) -> InputError:
        return InputError(what, where=f"{self.where}:{key}", fix=_FIX)


def _essence(step: Mapping[str, Any]) -> dict[str, Any]:
    """What of a step of a pre-tokenizer decides the tokens."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return {"type": kind, "space": step.get("add_prefix_space", True), "split": step.get("use_regex", True)}
    if kind == "Split":
        return {"type": kind, "pattern": step.get("pattern"), "kept": step.get("behavior"), "not": step.get("invert")}
    return dict(step)
