"""What tests of evolution share."""

from __future__ import annotations

from pathlib import Path

import evolve_world
import pytest


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, skills and tasks of the smallest size, new for every module: tests write their studies into it."""
    return evolve_world.build_world(tmp_path_factory.mktemp("world"))
