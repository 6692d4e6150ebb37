"""Where the tokenizers of models contradict each other: a token with two ids, or an id with two tokens.

Rows of such models must not be added up as they stand. Used by merges, mixtures and inspection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from genepool.weights.vocabulary.reading import Vocabulary, VocabularyReader, names_a_tokenizer
from genepool.weights.weights import Weights


@dataclass(frozen=True, slots=True)
class VocabularyConflict:
    """Tokens that two models number differently, or ids that stand for different tokens.

    Attributes:
        first, other: the models.
        text: what is wrong with the first of them, in words.
        count: the number of such tokens or ids.
    """

    first: str
    other: str
    text: str
    count: int

    def __str__(self) -> str:
        return f"the vocabularies differ: {self.text}"


def vocabularies(sources: Mapping[str, Weights]) -> dict[str, Vocabulary]:
    """The vocabularies of the models whose tokenizers say what their tokens are, by name.

    Raises:
        InputError: a tokenizer's file that cannot be read or contradicts itself.
    """
    reader = VocabularyReader()
    folders = {name: weights.tokenizer_folder for name, weights in sources.items()}
    found = {name: reader.read(folder) for name, folder in folders.items() if folder is not None}
    return {name: vocabulary for name, vocabulary in found.items() if vocabulary is not None}


def without_description(sources: Mapping[str, Weights], described: Iterable[str]) -> list[str]:
    """The models that have a tokenizer's settings and no file that says its tokens."""
    known = set(described)
    return [name for name, one in sources.items() if name not in known and names_a_tokenizer(one.tokenizer_folder)]


def vocabulary_conflicts(found: Mapping[str, Vocabulary]) -> Iterator[VocabularyConflict]:
    """Every vocabulary that contradicts one before it.

    Tokens that only one model has are no conflict as long as no other model has another token under their id.

    Args:
        found: the vocabularies of models, by name.
    """
    first = next(iter(found), "")
    ours = found[first].ids if found else {}
    owners = {number: (first, token) for token, number in ours.items()}
    for name, vocabulary in found.items():
        theirs = vocabulary.ids
        if theirs is ours:
            continue
        differing = [token for token, number in ours.items() if theirs.get(token, number) != number]
        if differing:
            token = differing[0]
            text = f"token {token!r} is {ours[token]} in {first}, {theirs[token]} in {name}"
            yield VocabularyConflict(first, name, text, len(differing))
            continue
        taken = {}
        for token, number in theirs.items():
            owner, known = owners.setdefault(number, (name, token))
            if known != token:
                taken[number] = (owner, known, token)
        if taken:
            number, (owner, known, token) = next(iter(taken.items()))
            text = f"{number} is token {known!r} in {owner}, {token!r} in {name}"
            yield VocabularyConflict(owner, name, text, len(taken))
