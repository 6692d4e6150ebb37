"""Do the models of a recipe share a vocabulary, and how are they given one when some only have further rows?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class VocabularyConflict:
    """Tokens that two models number differently, or ids that stand for different tokens.

    Attributes:
        first, other: the models.
        text: what is wrong with the first of them, in words.
        count: the number of such tokens or ids.
        fix: the way out.
    """

    first: str
    other: str
    text: str
    count: int
    fix: str

    def __str__(self) -> str:
        return f"the vocabularies differ: {self.text}"


def check_vocabularies(sources: Mapping[str, Weights], where: str) -> None:
    """Refuses models whose tokenizers give one token two ids, or one id two tokens: such rows must not be added up.

    Args:
        sources: the models by name.
        where: the recipe, for errors.

    Raises:
        InputError: naming the first token and both ids, or the id and both tokens.
    """
    for conflict in vocabulary_conflicts(sources):
        raise InputError(str(conflict), where=where, fix=conflict.fix)


def vocabulary_conflicts(sources: Mapping[str, Weights]) -> Iterator[VocabularyConflict]:
    """Every model whose tokenizer contradicts that of one before it.

    Models without a readable `tokenizer.json` are not compared; tokens that only one model has are no conflict as long
    as no other model has another token under their id.

    Raises:
        InputError: a `tokenizer.json` that cannot be read.
    """
    found = _vocabularies(sources)
    first = next(iter(found), "")
    ours = found.get(first, {})
    owners = {number: (first, token) for token, number in ours.items()}
    for name, theirs in found.items():
        if theirs is ours:
            continue
        differing = [token for token, number in ours.items() if theirs.get(token, number) != number]
        if differing:
            token = differing[0]
            text = f"token {token!r} is {ours[token]} in {first}, {theirs[token]} in {name}"
            fix = "Merge models of one vocabulary, or say `vocabulary: unchecked`"
            yield VocabularyConflict(first, name, text, len(differing), fix)
            continue
        taken = {}
        for token, number in theirs.items():
            owner, known = owners.setdefault(number, (name, token))
            if known != token:
                taken[number] = (owner, known, token)
        if taken:
            number, (owner, known, token) = next(iter(taken.items()))
            text = f"{number} is token {known!r} in {owner}, {token!r} in {name}"
            fix = "Leave out one of the models, or say `vocabulary: unchecked` to merge the rows all the same"
            yield VocabularyConflict(owner, name, text, len(taken), fix)


def _vocabularies(sources: Mapping[str, Weights]) -> dict[str, dict[str, int]]:
    """Tokens and their ids by model; models with the same file share one mapping."""
    read: dict[bytes, dict[str, int]] = {}
    result = {}
    for name, weights in sources.items():
        folder = weights.tokenizer_folder
        path = folder / "tokenizer.json" if folder else None
        if path is not None and path.is_file():
            data = path.read_bytes()
            if data not in read:
                read[data] = _vocabulary(path, data)
            result[name] = read[data]
    return result


def _vocabulary(path: Path, data: bytes) -> dict[str, int]:
    try:
        content = json.loads(data)
        vocabulary = content["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((t[0], i) for i, t in enumerate(vocabulary))
        added = ((entry["content"], entry["id"]) for entry in content.get("added_tokens", []))
        return {**dict(pairs), **dict(added)}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"is not a readable tokenizer ({error!r})", where=path, fix="Fetch it again") from None
