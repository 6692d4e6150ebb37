"""The testbed of real texts: all-MiniLM-L6-v2 with a head, and a specialist for each way of classifying texts."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.errors import InputError
from genepool.testbed.sentences.builder import SentencesSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> SentencesSettings:
    """See `genepool.testbed.beds`."""
    if regime != "elicit":
        raise InputError("the sentences testbed has one regime, elicit", where="regime", fix="Leave it out")
    return SentencesSettings.of(tiny, seed, skills)
