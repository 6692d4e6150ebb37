"""The testbed of streams of texts: a small Llama that tells languages apart, and texts whose surface drifts."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.testbed.beds.streams import refuse_more
from genepool.testbed.streams.text_builder import TextStreamsSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> TextStreamsSettings:
    """See `genepool.testbed.beds`."""
    refuse_more(regime, skills)
    return TextStreamsSettings(tiny, seed)
