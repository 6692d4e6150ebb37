"""The testbed of series: a linear forecaster, and two synthetic series that go on after its training; one drifts."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.testbed.series.builder import SeriesSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> SeriesSettings:
    """See `genepool.testbed.beds`."""
    return SeriesSettings.of("series", regime, tiny, seed, skills)
