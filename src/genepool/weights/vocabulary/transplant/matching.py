"""Which token of one vocabulary is which of another: those that stand for the same text, or play the same part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genepool.weights.json_file import read_json
from genepool.weights.vocabulary.reading import Vocabulary, from_byte_level

# In this order: a token that plays two parts (often the end and padding) is known by the first.
_PARTS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
Kind = Literal["exact", "byte", "prefix"]


@dataclass(frozen=True)
class Meaning:
    """What a token stands for, whatever tokenizer writes it.

    Attributes:
        text: the text, a space before a word included; None of a special token and of bytes that are no text.
        data: the bytes, for a token of bytes.
        part: the part a special token plays ("eos_token"), or the token itself where it plays none.
    """

    text: str | None = None
    data: bytes | None = None
    part: str | None = None


@dataclass(frozen=True)
class Matched:
    """A token of the donor's vocabulary that the model has a row for.

    Attributes:
        donor, model: the rows.
        kind: how they match.
    """

    donor: int
    model: int
    kind: Kind


def meanings(vocabulary: Vocabulary, folder: Path, rows: int) -> dict[Meaning, int]:
    """What the tokens of a tokenizer stand for -> the id; of several with one meaning the first.

    Args:
        vocabulary: the tokens.
        folder: where the tokenizer lies: its settings say which special tokens play which part.
        rows: tokens with this id and above have no row, and are left out.
    """
    parts: dict[str, str] = {}
    for part, token in special_tokens(folder).items():
        parts.setdefault(token, part)
    found: dict[Meaning, int] = {}
    for token, number in sorted(vocabulary.ids.items(), key=lambda one: one[1]):
        if number < rows:
            found.setdefault(_meaning(token, vocabulary, parts), number)
    return found


def matches(
    donor: Mapping[Meaning, int], model: Mapping[Meaning, int], *, byte: bool = False, prefix: bool = False
) -> Iterator[Matched]:
    """The tokens of the donor that the model has too.

    Args:
        donor, model: what their tokens stand for.
        byte: a token of one byte also matches the character of that byte.
        prefix: a token also matches the longest token that it begins with.
    """
    for meaning, row in donor.items():
        if (own := model.get(meaning)) is not None:
            yield Matched(row, own, "exact")
        elif byte and (own := _byte_match(meaning, model)) is not None:
            yield Matched(row, own, "byte")
        elif prefix and (own := _prefix_match(meaning, model)) is not None:
            yield Matched(row, own, "prefix")


def _meaning(token: str, vocabulary: Vocabulary, parts: Mapping[str, str]) -> Meaning:
    if token in parts or vocabulary.added.get(token, {}).get("special"):
        return Meaning(part=parts.get(token, token))
    if token in vocabulary.added:
        # It is found in a text as it stands.
        return Meaning(text=token)
    if vocabulary.spelling == "byte_level":
        data = from_byte_level(token)
        if data is None:
            return Meaning(text=token)
        try:
            return Meaning(text=data.decode("utf-8"))
        except ValueError:
            return Meaning(data=data)
    if vocabulary.spelling == "wordpiece":
        return Meaning(text=token[2:] if token.startswith("##") else f" {token}")
    if vocabulary.spelling == "metaspace":
        if found := _BYTE.fullmatch(token):
            return Meaning(data=bytes.fromhex(found[1]))
        return Meaning(text=token.replace("▁", " "))
    return Meaning(text=token)


def special_tokens(folder: Path) -> dict[str, str]:
    """The part that a special token plays ("eos_token") -> the token, as the tokenizer's settings have it."""
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = read_json(folder / name) if (folder / name).is_file() else {}
        for part in _PARTS:
            token = _content(settings.get(part))
            if token is not None:
                found.setdefault(part, token)
    return found


def _content(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _byte_match(meaning: Meaning, model: Mapping[Meaning, int]) -> int | None:
    if meaning.data is not None and len(meaning.data) == 1:
        return model.get(Meaning(text=chr(meaning.data[0])))
    if meaning.text is not None and len(meaning.text) == 1 and ord(meaning.text) < 256:
        return model.get(Meaning(data=bytes([ord(meaning.text)])))
    return None


def _prefix_match(meaning: Meaning, model: Mapping[Meaning, int]) -> int | None:
    text = meaning.text or ""
    for end in range(len(text) - 1, 0, -1):
        if text[:end].strip() and (own := model.get(Meaning(text=text[:end]))) is not None:
            return own
    return None
