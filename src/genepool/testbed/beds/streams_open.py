"""The testbed of open streams: its base was never shown the digits 7 to 9, and its streams have them."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.testbed.beds.streams import refuse_more
from genepool.testbed.streams.builder import StreamsSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> StreamsSettings:
    """See `genepool.testbed.beds`."""
    refuse_more(regime, skills)
    return StreamsSettings(tiny, seed, open_set=True, bed="streams_open")
