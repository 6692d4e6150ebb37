"""Which tokens a model's tokenizer has and under which ids, from whatever file describes it.

`tokenizer.json`, a SentencePiece or tiktoken `tokenizer.model`, Mistral's `tekken.json`, `vocab.json` beside
`merges.txt`, `vocab.txt`; with the tokens that `added_tokens.json` and `tokenizer_config.json` add. No tokenizer is
built and no code runs: files may be a stranger's. `comparison` and `joining` use what is read here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from genepool.errors import InputError
from genepool.weights.json_file import read_bounded, read_json, read_json_value
from genepool.weights.vocabulary.sentencepiece import pieces

# Of a `tokenizer.json` for the tokens beside the model's own: what `tokenizers.AddedToken` takes.
ADDED_SETTINGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# mistral-common's Tekkenizer.DEPRECATED_SPECIAL_TOKENS: files before version 7 leave their special tokens out.
_TEKKEN_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
# As texts; bytes as characters, a space as `Ġ` (GPT-2); a space as `▁` (SentencePiece); a word's further pieces after
# `##` (WordPiece).
Spelling = Literal["plain", "byte_level", "metaspace", "wordpiece"]
# What a tokenizer.json calls the steps that put such tokens together again.
_SPELLINGS: Mapping[str, Spelling] = {"ByteLevel": "byte_level", "Metaspace": "metaspace", "WordPiece": "wordpiece"}
# The largest vocabularies have some 260,000 tokens.
_MOST_ID = 1 << 24
_AGAIN = "Fetch it again, or save the tokenizer with transformers"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one tokenizer.

    Attributes:
        path: the file that says most of it, for errors.
        ids: token -> its id.
        added: token -> how it is matched in a text, for tokens that stand beside the model's own (`ADDED_SETTINGS`).
        spelling: how tokens are written.
    """

    path: Path
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    spelling: Spelling = "plain"


def read_vocabulary(folder: Path | None) -> Vocabulary | None:
    """The tokens of the tokenizer in a folder; None where no file says them.

    Raises:
        InputError: a file cannot be read, names a token twice, or gives two tokens one id.
    """
    return None if folder is None else VocabularyReader().read(folder)


def names_a_tokenizer(folder: Path | None) -> bool:
    """Whether a folder has a tokenizer's settings, with or without the tokens."""
    return folder is not None and (folder / "tokenizer_config.json").is_file()


class VocabularyReader:
    """Reads the vocabularies of several folders; equal files are read once."""

    def __init__(self) -> None:
        self._seen: dict[str, Vocabulary] = {}

    def read(self, folder: Path) -> Vocabulary | None:
        """As `read_vocabulary`."""
        for name, reader in _READERS:
            if (path := folder / name).is_file() and not _is_empty(path):
                return self._read(path, reader)
        return None

    def _read(self, path: Path, reader: Callable[[Path], Vocabulary]) -> Vocabulary:
        beside = [path.parent / name for name in ("added_tokens.json", "tokenizer_config.json")]
        digest = hashlib.sha256(path.name.encode())
        for one in (path, *(one for one in beside if one.is_file())):
            digest.update(hashlib.sha256(read_bounded(one)).digest())
        key = digest.hexdigest()
        if key not in self._seen:
            self._seen[key] = _with_added(reader(path), *beside)
        return self._seen[key]


def _is_empty(path: Path) -> bool:
    """Whether a file is `{}`, a stand-in, which describes no tokenizer."""
    return path.stat().st_size <= 4 and path.read_bytes().strip() == b"{}"


class _Table:
    """Tokens and ids as they are collected: each token once, each id once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: dict[str, int] = {}
        self.tokens: dict[int, str] = {}

    def add(self, token: object, number: object, where: str = "") -> None:
        if not isinstance(token, str) or not isinstance(number, int) or isinstance(number, bool):
            what = f"got the token {token!r} under {number!r}, expected text and a whole number"
            raise InputError(what, where=self._place(where), fix=_AGAIN)
        if not 0 <= number < _MOST_ID:
            raise InputError(f"token {token!r} has the id {number}", where=self._place(where), fix=_AGAIN)
        if (known := self.ids.setdefault(token, number)) != number:
            raise _twice(token, (known, number), self._place(where))
        if (other := self.tokens.setdefault(number, token)) != token:
            what = f"tokens {other!r} and {token!r} both have the id {number}"
            raise InputError(what, where=self._place(where), fix=_AGAIN)

    def _place(self, where: str) -> str:
        return f"{self.path}{where}"

    def add_all(self, tokens: Iterable[tuple[object, object]], where: str = "") -> _Table:
        for token, number in tokens:
            self.add(token, number, where)
        return self


def _twice(token: str, values: tuple[object, object], where: str) -> InputError:
    numbers = f", as {values[0]} and as {values[1]}" if all(isinstance(value, int) for value in values) else ""
    return InputError(f"{token!r} is named twice{numbers}", where=where, fix=_AGAIN)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which may not name a key twice: `json` keeps the last, and so hides the other."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise _twice(key, (seen[key], value), str(path))
            seen[key] = value
    return found


def _json(path: Path) -> dict[str, Any]:
    content = read_json_value(path, partial(_unique, path))
    if not isinstance(content, dict):
        raise InputError("is not a JSON object", where=path, fix=_AGAIN)
    return content


# ---------------------------------------------------------------------- the files


def _tokenizer_json(path: Path) -> Vocabulary:
    content, table = _json(path), _Table(path)
    model = content.get("model")
    listed = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(listed, dict):
        table.add_all(listed.items(), ":model.vocab")
    elif isinstance(listed, list) and all(isinstance(entry, list) and entry for entry in listed):
        table.add_all(((entry[0], number) for number, entry in enumerate(listed)), ":model.vocab")
    else:
        raise InputError("has no list of tokens, expected `model.vocab`", where=path, fix=_AGAIN)
    added: dict[str, Mapping[str, bool]] = {}
    entries = content.get("added_tokens") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("is not a list of tokens", where=f"{path}:added_tokens", fix=_AGAIN)
    for entry in entries:
        token = entry.get("content")
        if token in added:
            raise _twice(str(token), (table.ids[token], entry.get("id")), f"{path}:added_tokens")
        table.add(token, entry.get("id"), ":added_tokens")
        added[str(token)] = _settings(entry)
    return Vocabulary(path, table.ids, added, _spelling(content))


def _spelling(content: Mapping[str, Any]) -> Spelling:
    decoder = content.get("decoder") or {}
    steps = [decoder, *(decoder.get("decoders") or [])] if isinstance(decoder, dict) else []
    for step in steps:
        if isinstance(step, dict) and (found := _SPELLINGS.get(str(step.get("type")))):
            return found
        if isinstance(step, dict) and step.get("type") == "Replace" and step.get("pattern") == {"String": "▁"}:
            return "metaspace"
    return "plain"


def _settings(entry: Mapping[str, Any]) -> dict[str, bool]:
    special = bool(entry.get("special", False))
    given = {name: bool(entry.get(name, False)) for name in ADDED_SETTINGS}
    # As `tokenizers.AddedToken` has it where nothing is said.
    return given | {"normalized": bool(entry.get("normalized", not special))}


def _tokenizer_model(path: Path) -> Vocabulary:
    data = read_bounded(path)
    try:
        ids = _Table(path).add_all((text, number) for number, text in enumerate(pieces(data))).ids
        return Vocabulary(path, ids, spelling="metaspace")
    except ValueError as error:
        problem = error
    # Llama 3 gave tiktoken's lines the same name.
    try:
        lines = [line.split() for line in data.decode("ascii").splitlines() if line.strip()]
        ranks = [(byte_level(base64.b64decode(text, validate=True)), int(rank)) for text, rank in lines]
    except ValueError:
        raise InputError(f"is not a readable tokenizer ({problem})", where=path, fix=_AGAIN) from None
    return Vocabulary(path, _Table(path).add_all(ranks).ids, spelling="byte_level")


def _tekken(path: Path) -> Vocabulary:
    content, table = _json(path), _Table(path)
    config, listed = content.get("config"), content.get("vocab")
    if not isinstance(config, dict) or not isinstance(listed, list):
        raise InputError("has no `config` and `vocab`", where=path, fix=_AGAIN)
    count = config.get("default_num_special_tokens", 1000)
    size = config.get("default_vocab_size", count + len(listed) if isinstance(count, int) else None)
    if not isinstance(count, int) or not isinstance(size, int) or not 0 <= count <= size < _MOST_ID:
        raise InputError("got numbers of tokens that make no sense", where=f"{path}:config", fix=_AGAIN)
    special = content.get("special_tokens") or [
        {"rank": rank, "token_str": token} for rank, token in enumerate(_TEKKEN_SPECIAL[:count])
    ]
    try:
        named = {entry["rank"]: entry["token_str"] for entry in special}
        ranks = [(byte_level(base64.b64decode(one["token_bytes"])), one["rank"] + count) for one in listed]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"is not a readable tokenizer ({error!r})", where=path, fix=_AGAIN) from None
    table.add_all(((named.get(rank, f"<SPECIAL_{rank}>"), rank) for rank in range(count)), ":special_tokens")
    table.add_all(((token, number) for token, number in ranks if number < size), ":vocab")
    control = {token: _settings({"special": True}) for token in list(table.ids)[:count]}
    return Vocabulary(path, table.ids, control, "byte_level")


def _vocab_json(path: Path) -> Vocabulary:
    # Only byte-level tokenizers come in these two files.
    spelling: Spelling = "byte_level" if (path.parent / "merges.txt").is_file() else "plain"
    return Vocabulary(path, _Table(path).add_all(_json(path).items()).ids, spelling=spelling)


def _vocab_txt(path: Path) -> Vocabulary:
    try:
        lines = read_bounded(path).decode("utf-8").split("\n")
    except ValueError as error:
        raise InputError(f"is not text ({error})", where=path, fix=_AGAIN) from None
    found = [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]
    ids = _Table(path).add_all((token, number) for number, token in enumerate(found)).ids
    return Vocabulary(path, ids, spelling="wordpiece")


# The first that is there counts, in the order in which transformers looks for them.
_READERS: tuple[tuple[str, Callable[[Path], Vocabulary]], ...] = (
    ("tokenizer.json", _tokenizer_json),
    ("tokenizer.model", _tokenizer_model),
    ("tekken.json", _tekken),
    ("vocab.json", _vocab_json),
    ("vocab.txt", _vocab_txt),
    ("spiece.model", _tokenizer_model),
)


def _with_added(found: Vocabulary, added_tokens: Path, settings: Path) -> Vocabulary:
    """A vocabulary with the tokens that other files beside it add to it."""
    table, added = _Table(found.path), dict(found.added)
    table.add_all(found.ids.items())
    if added_tokens.is_file():
        for token, number in _json(added_tokens).items():
            _add_beside(table, added_tokens, token, number)
            added.setdefault(token, _settings({}))
    decoder = read_json(settings).get("added_tokens_decoder") if settings.is_file() else None
    for number, entry in (decoder if isinstance(decoder, dict) else {}).items():
        if not isinstance(entry, dict) or not str(number).isdecimal():
            raise InputError("is not a token", where=f"{settings}:added_tokens_decoder.{number}", fix=_AGAIN)
        _add_beside(table, settings, entry.get("content"), int(number))
        added.setdefault(str(entry["content"]), _settings(entry))
    return Vocabulary(found.path, table.ids, added, found.spelling)


def _add_beside(table: _Table, path: Path, token: object, number: object) -> None:
    beside = _Table(path)
    beside.ids, beside.tokens = table.ids, table.tokens
    beside.add(token, number)


# ---------------------------------------------------------------------- bytes


@cache
def _byte_characters() -> tuple[str, ...]:
    """The character that stands for each byte in a byte-level BPE: itself where it prints, else one from 256 on.

    Radford et al. 2019 (GPT-2), whose table all byte-level tokenizers took over.
    """
    prints = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in prints else chr(next(others)) for byte in range(256))


def byte_level(data: bytes) -> str:
    """Bytes as a byte-level tokenizer writes them in its vocabulary: a space is `Ġ`."""
    characters = _byte_characters()
    return "".join(characters[byte] for byte in data)


@cache
def _bytes_of_characters() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(_byte_characters())}


def from_byte_level(token: str) -> bytes | None:
    """The bytes that a token of a byte-level vocabulary stands for; None where it has other characters."""
    numbers = _bytes_of_characters()
    return bytes(numbers[one] for one in token) if all(one in numbers for one in token) else None
