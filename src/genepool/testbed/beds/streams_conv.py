"""The testbed of streams for a convolutional network with batch norms, trained on clean digits."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.testbed.beds.streams import checked_streams
from genepool.testbed.streams.builder import StreamsSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> StreamsSettings:
    """See `genepool.testbed.beds`."""
    return checked_streams(StreamsSettings(tiny, seed, conv=True, bed="streams_conv"), regime, skills)
