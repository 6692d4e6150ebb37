"""The testbed of the real series that ship with statsmodels: a forecaster of all, and one of each."""

from __future__ import annotations

from collections.abc import Sequence

from genepool.testbed.series.builder import SeriesSettings


def settings(*, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> SeriesSettings:
    """See `genepool.testbed.beds`."""
    return SeriesSettings.of("series_real", regime, tiny, seed, skills)
