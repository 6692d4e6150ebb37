"""Where a tokenizer is taken from: a model, whose rows estimators may use, or a folder that holds a tokenizer alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.errors import InputError, files_fault
from genepool.weights.opening import open_weights
from genepool.weights.vocabulary.reading import Vocabulary, read_vocabulary
from genepool.weights.vocabulary.rows import SPECIAL_IDS, token_ids, vocabulary_rows
from genepool.weights.vocabulary.transplant.matching import special_tokens
from genepool.weights.weights import Weights


@dataclass(frozen=True)
class TokenizerDonor:
    """A tokenizer and, where it came with one, its model.

    Attributes:
        name: what the user calls it.
        folder: where the tokenizer's files are.
        vocabulary: its tokens.
        weights: the model; None where there is only a tokenizer.
        rows: how many rows of tokens the model has; None as before.
    """

    name: str
    folder: Path
    vocabulary: Vocabulary
    weights: Weights | None
    rows: int | None

    @property
    def size(self) -> int:
        """How many rows its tokens need."""
        return max(self.vocabulary.ids.values()) + 1

    def special_ids(self) -> dict[str, Any]:
        """What a config says of it in ids ("eos_token_id"): its model's, else those of the tokenizer's settings."""
        config = self.weights.config if self.weights is not None else None
        if config is not None:
            return token_ids(config)
        named = {f"{part}_id": self.vocabulary.ids.get(token) for part, token in special_tokens(self.folder).items()}
        return {key: number for key, number in named.items() if key in SPECIAL_IDS and number is not None}


def open_donor(reference: str, *, allow_pickle: bool = False) -> TokenizerDonor:
    """Opens what a user names as the tokenizer.

    Raises:
        InputError: nothing is there, or no file there says the tokens.
    """
    folder = Path(os.path.expanduser(reference))
    if folder.is_dir() and not (folder / "config.json").is_file():
        return TokenizerDonor(reference, folder, described(folder, reference), None, None)
    weights = open_weights(reference, allow_pickle=allow_pickle)
    place = weights.tokenizer_folder
    vocabulary = described(place, reference)
    assert place is not None
    return TokenizerDonor(reference, place, vocabulary, weights, max(vocabulary_rows(weights).values(), default=0))


def described(folder: Path | None, name: str) -> Vocabulary:
    """The tokens of a tokenizer that must have some.

    Raises:
        InputError: no file says them.
    """
    found = read_vocabulary(folder)
    if found is None or not found.ids:
        raise InputError(
            "no file here says the tokens of a tokenizer", where=name, fix="Put its tokenizer.json into the folder"
        )
    return found


def splitter(folder: Path, vocabulary: Vocabulary, rows: int) -> Callable[[str], Sequence[int]]:
    """Splits texts into the ids of a tokenizer, those of unknown words and of tokens without a row left out.

    Raises:
        InputError: the tokenizer cannot be built.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    with files_fault("cannot be used", where=path, fix="Fetch the tokenizer again"):
        if path.is_file():
            backend = Tokenizer.from_file(str(path))
        else:
            from transformers import AutoTokenizer

            backend = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer
    unknown = vocabulary.ids.get(str(getattr(backend.model, "unk_token", None)))

    def split(text: str) -> list[int]:
        ids = backend.encode(text, add_special_tokens=False).ids
        return [number for number in ids if number != unknown and number < rows]

    return split
