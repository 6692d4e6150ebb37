"""Do the models of a recipe share a vocabulary, and how are they given one when some only have further rows?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.weights import PaddedVocabulary, Weights, vocabulary_rows

if TYPE_CHECKING:
    from pathlib import Path


def check_vocabularies(sources: Mapping[str, Weights], where: str, *, by_id: bool = False) -> None:
    """Refuses models whose tokenizers give the same token different ids.

    Models without a readable `tokenizer.json` are not compared; tokens that only one model has are no conflict.

    Args:
        sources: the models by name.
        where: the recipe, for errors.
        by_id: also refuse two tokens of different models under one id: rows that must not be added up.

    Raises:
        InputError: naming the first token and both ids, or the id and both tokens.
    """
    seen: tuple[str, bytes, dict[str, int]] | None = None
    owners: dict[int, tuple[str, str]] = {}
    for name, weights in sources.items():
        path = weights.folder / "tokenizer.json" if weights.folder else None
        if path is None or not path.is_file():
            continue
        data = path.read_bytes()
        if seen is not None and data == seen[1]:
            continue
        theirs = _vocabulary(path, data)
        if seen is None:
            seen = (name, data, theirs)
        for token, number in seen[2].items():
            other = theirs.get(token, number)
            if other != number:
                raise InputError(
                    f"the vocabularies differ: token {token!r} is {number} in {seen[0]}, {other} in {name}",
                    where=where,
                    fix="Merge models of one vocabulary, or say `vocabulary: unchecked`",
                )
        for token, number in theirs.items() if by_id else ():
            owner, known = owners.setdefault(number, (name, token))
            if known != token and owner != name:
                raise InputError(
                    f"the vocabularies differ: {number} is token {known!r} in {owner}, {token!r} in {name}",
                    where=where,
                    fix="Models that each added tokens of their own cannot be merged yet",
                )


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
