"""The testbed of streams for a convolutional network with batch norms, trained on clean digits."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.testbed.beds.streams import refuse_more
from genepool.testbed.streams.builder import StreamsSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> StreamsSettings:
    """See `genepool.testbed.beds`."""
    refuse_more(regime, skills)
    return StreamsSettings(tiny, seed, conv=True, bed="streams_conv")
