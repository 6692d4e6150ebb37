"""The testbed of streams: the base of the digits testbed, and streams of spoilt digits for it to adapt to."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.errors import InputError
from genepool.testbed.streams.builder import StreamsSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> StreamsSettings:
    """See `genepool.testbed.beds`."""
    refuse_more(regime, skills)
    return StreamsSettings(tiny, seed)


def refuse_more(regime: str, skills: Sequence[str] | None) -> None:
    """Refuses what testbeds of streams do not have.

    Raises:
        InputError: a regime or skills are named.
    """
    if regime != "elicit":
        raise InputError("the testbed of streams has one regime, elicit", where="regime", fix="Leave it out")
    if skills is not None:
        raise InputError("the testbed of streams has no skills", where="skills", fix="Leave it out")
