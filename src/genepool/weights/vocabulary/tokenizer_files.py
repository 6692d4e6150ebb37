"""A tokenizer made of another one: tokens added at its end, tokens without a row taken out.

`tokenizer.json` is changed by the library `tokenizers`, as transformers does it, so a text is split as by a tokenizer
that transformers added the tokens to. The files lie in the cache, where plans, writers and models in memory find them.
A tokenizer that needs no change stays where it is.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from genepool.errors import InputError, files_fault
from genepool.weights.carried import GENERATION_FILE, tokenizer_files
from genepool.weights.companions import cached_folder
from genepool.weights.json_file import read_json
from genepool.weights.vocabulary.reading import Vocabulary

# Part of the folder's name: another way to make the files needs another folder.
_VERSION = 1
# What lists the tokens of the tokenizer before the change; loaders take tokenizer.json where they find it.
_REPLACED = frozenset({
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model",
})  # fmt: skip


class ChangedTokenizer:
    """A tokenizer with other tokens than that of a folder.

    Args:
        folder: where the tokenizer lies.
        vocabulary: its tokens.
        rows: tokens with this id and above are taken out.
        added: tokens to add, in this order, with the way they are matched; None for a plain word. A token that is
            there gets the setting, if it had none.
        where: what asks for the tokens, for errors.

    Attributes:
        ids: token -> its id.
        is_changed: whether anything differs from the tokenizer of the folder.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary: Vocabulary,
        rows: int,
        added: Mapping[str, Mapping[str, bool] | None],
        where: str,
    ) -> None:
        self._folder, self._vocabulary, self._rows, self._where = folder, vocabulary, rows, where
        self._added = {
            token: settings
            for token, settings in added.items()
            if vocabulary.ids.get(token, rows) >= rows or (settings and token not in vocabulary.added)
        }
        self.is_changed = bool(self._added) or any(number >= rows for number in vocabulary.ids.values())

    @cached_property
    def ids(self) -> Mapping[str, int]:
        return self._made[1] if self.is_changed else self._vocabulary.ids

    @cached_property
    def folder(self) -> Path:
        """Where its files are."""
        if not self.is_changed:
            return self._folder
        text, _ = self._made
        files = self._files(text)
        key = hashlib.sha256(repr((_VERSION, sorted(files.items()))).encode()).hexdigest()
        return cached_folder("tokenizers", key, "tokenizer", lambda: files, self)

    @cached_property
    def _made(self) -> tuple[str, Mapping[str, int]]:
        """The text of its tokenizer.json, and its tokens.

        Raises:
            InputError: the tokenizer cannot be changed.
        """
        from tokenizers import AddedToken, Tokenizer

        content = self._source
        path = self._folder / "tokenizer.json"
        _take_out(content, self._rows, path)
        with files_fault("cannot be changed", where=path, fix="Fetch the tokenizer again"):
            tokenizer = Tokenizer.from_str(json.dumps(content))
            # All at once: the library builds its search tree anew at every call.
            tokenizer.add_tokens(
                [
                    token if settings is None else AddedToken(token, **settings)
                    for token, settings in self._added.items()
                ]
            )
            text = tokenizer.to_str(pretty=True)
        ids = tokenizer.get_vocab(with_added_tokens=True)
        if len(set(ids.values())) < len(ids):
            raise InputError(
                "leaves out ids, and a new token would get one that is taken",
                where=path,
                fix="Save the tokenizer again with transformers",
            )
        return text, ids

    @cached_property
    def _source(self) -> dict[str, Any]:
        """The content of the tokenizer.json that is changed."""
        if (self._folder / "tokenizer.json").is_file():
            return read_json(self._folder / "tokenizer.json")
        # Only transformers knows how each class turns its files into a tokenizer.json.
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as temporary:
            what = f"has no tokenizer.json, and transformers makes none of {self._vocabulary.path.name}"
            with files_fault(what, where=self._folder, fix="Save the tokenizer with transformers, or add the file"):
                AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False).save_pretrained(temporary)
                return dict(read_json(Path(temporary) / "tokenizer.json"))

    def _files(self, text: str) -> dict[str, str]:
        """All files of the tokenizer, name -> text."""
        beside = tokenizer_files(self._folder)
        if (self._folder / GENERATION_FILE).is_file():
            beside[GENERATION_FILE] = self._folder / GENERATION_FILE
        files = {
            name: path.read_text(encoding="utf-8") for name, path in sorted(beside.items()) if name not in _REPLACED
        }
        settings = read_json(beside["tokenizer_config.json"]) if "tokenizer_config.json" in beside else {}
        if "added_tokens_decoder" in settings:
            settings["added_tokens_decoder"] = {
                str(entry.pop("id")): entry for entry in json.loads(text)["added_tokens"]
            }
        settings.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        files["tokenizer_config.json"] = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        return {**files, "tokenizer.json": text}


def _take_out(content: dict[str, Any], rows: int, path: Path) -> None:
    """Takes the tokens with an id of `rows` and above out of the content of a tokenizer.json."""
    model = content["model"]
    content["added_tokens"] = [entry for entry in content.get("added_tokens") or [] if entry["id"] < rows]
    if isinstance(model["vocab"], list):
        # The id of a Unigram token is its place.
        model["vocab"] = model["vocab"][:rows]
        return
    kept = {token: number for token, number in model["vocab"].items() if number < rows}
    if len(kept) == len(model["vocab"]):
        return
    model["vocab"] = kept
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [(merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        model["merges"] = [
            merge for merge, (left, right) in pairs if {left, right, left + right.removeprefix(prefix)} <= kept.keys()
        ]
    unknown = model.get("unk_token")
    if isinstance(unknown, str) and unknown not in kept:
        raise InputError(
            f"the model has no row for {unknown!r}, the token of unknown words",
            where=path,
            fix="Use the tokenizer of another model",
        )
