"""A model and a stream that every test of this room may read."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_series import write_forecaster, write_series
from made_streams import write_model, write_stream


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small classifier."""
    return write_model(tmp_path_factory.mktemp("adaptation") / "base")


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stream: 48 examples of two domains, in batches of 8, two rounds."""
    return write_stream(tmp_path_factory.mktemp("adaptation") / "stream")


@pytest.fixture(scope="session")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small forecaster."""
    return write_forecaster(tmp_path_factory.mktemp("adaptation") / "forecaster")


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a series: 37 windows of two variables, in batches of three."""
    return write_series(tmp_path_factory.mktemp("adaptation") / "series")
