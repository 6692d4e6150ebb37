"""Do the models of a recipe share a vocabulary, and how are they given one when some only have further rows?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights import PaddedVocabulary, Weights, vocabulary_rows

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class VocabularyConflict:
    """Tokens that two models number differently.

    Attributes:
        first, other: the models.
        token: the first such token.
        first_id, other_id: its number in either.
        count: how many there are.
    """

    first: str
    other: str
    token: str
    first_id: int
    other_id: int
    count: int

    def __str__(self) -> str:
        return (
            f"the vocabularies differ: token {self.token!r} is {self.first_id} in {self.first}, "
            f"{self.other_id} in {self.other}"
        )


def check_vocabularies(sources: Mapping[str, Weights], where: str, *, by_id: bool = False) -> None:
    """Refuses models whose tokenizers give the same token different ids.

    Args:
        sources: the models by name.
        where: the recipe, for errors.
        by_id: also refuse two tokens of different models under one id: rows that must not be added up.

    Raises:
        InputError: naming the first token and both ids, or the id and both tokens.
    """
    for conflict in vocabulary_conflicts(sources):
        raise InputError(
            str(conflict), where=where, fix="Merge models of one vocabulary, or say `vocabulary: unchecked`"
        )
    owners: dict[int, tuple[str, str]] = {}
    for name, vocabulary in _vocabularies(sources).items() if by_id else ():
        for token, number in vocabulary.items():
            owner, known = owners.setdefault(number, (name, token))
            if known != token and owner != name:
                raise InputError(
                    f"the vocabularies differ: {number} is token {known!r} in {owner}, {token!r} in {name}",
                    where=where,
                    fix="Models that each added tokens of their own cannot be merged yet",
                )


def vocabulary_conflicts(sources: Mapping[str, Weights]) -> Iterator[VocabularyConflict]:
    """Every model whose tokenizer contradicts the first one's.

    Models without a readable `tokenizer.json` are not compared; tokens that only one model has are no conflict.

    Raises:
        InputError: a `tokenizer.json` that cannot be read.
    """
    found = _vocabularies(sources)
    first = next(iter(found), "")
    ours = found.pop(first, {})
    for name, theirs in found.items():
        if theirs is ours:
            continue
        differing = [token for token, number in ours.items() if theirs.get(token, number) != number]
        if differing:
            token = differing[0]
            yield VocabularyConflict(first, name, token, ours[token], theirs[token], len(differing))


def _vocabularies(sources: Mapping[str, Weights]) -> dict[str, dict[str, int]]:
    """Tokens and their ids by model; models with the same file share one mapping."""
    read: dict[bytes, dict[str, int]] = {}
    result = {}
    for name, weights in sources.items():
        path = weights.folder / "tokenizer.json" if weights.folder else None
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
        raise InputError(f"not a readable tokenizer ({error!r})", where=path, fix="Fetch it again") from None


def padded(sources: Mapping[str, Weights]) -> dict[str, Weights]:
    """The models with as many vocabulary rows as the one that has most; the first donates rows to all others.

    Args:
        sources: the models by name, the base first.
    """
    counts = {name: max(vocabulary_rows(weights).values(), default=0) for name, weights in sources.items()}
    rows, donors = max(counts.values()), list(sources.values())
    if all(count == rows for count in counts.values()):
        return dict(sources)
    return {name: PaddedVocabulary(weights, rows, donors) for name, weights in sources.items()}
