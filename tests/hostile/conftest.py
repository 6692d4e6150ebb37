"""What the fuzzer and its corpus share: the process that forks, and the good files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hardening.forked_commands import Forks
from tests.hostile.fuzzing import Fuzzer


@pytest.fixture(scope="session")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    if not hasattr(os, "waitid"):
        pytest.skip("forks are watched by waitid, which this system has not")
    with Forks() as forks:
        yield Fuzzer(forks, tmp_path_factory.mktemp("hostile"))
