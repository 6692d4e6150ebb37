"""What kills and races share: the process that forks, the world the commands work on, and the place of one command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hardening.disturbed import Place
from tests.hardening.forked_commands import Forks
from tests.hardening.hardening_world import GrowingWorld
from tests.hardening.writing import Writing


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    if not hasattr(os, "waitid"):
        pytest.skip("forks are watched by waitid, which this system has not")
    with Forks() as running:
        yield running


@pytest.fixture(scope="session")
def world(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> GrowingWorld:
    """Built once; commands read it, and copy what they change."""
    folder = tmp_path_factory.mktemp("hardening")

    def run(line: str) -> None:
        # What is made later must not add to the ledger that commands are given.
        env = {"GENEPOOL_CACHE": str(folder / "cache"), "GENEPOOL_LEDGER": "grown.sqlite"}
        code = forks.start(shlex.split(line), folder / "world", env, folder / "errors").wait()
        assert code == 0, f"{line}: {(folder / 'errors').read_text()}"

    return GrowingWorld(folder / "world", run)


@pytest.fixture
def place(writing: Writing, world: GrowingWorld, forks: Forks, tmp_path: Path) -> Place:
    """Where the command of the test works."""
    return Place(tmp_path / "place", world, forks, writing)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Counts kills and races; the sums stand at the end of the run."""
    return record_property
