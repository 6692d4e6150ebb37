"""Commands that write where they cannot, or where little is as usual: one line, nothing half-written, no fault of ours.

A disk without room, a folder that another user owns or that is mounted for reading, a folder whose name is no text, and
a clock that goes backwards. `make harden` tries every command that writes, the slow tests a few.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.hardening.forked_commands import Forks

sys.path.append(str(Path(__file__).parents[1] / "hardening"))
import hardening_world
from writing_commands import COMMANDS, Writing

from tests.hostile.kinds import words

_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk and being another user needs root")
_FEW = {"merge, random", "library add", "evaluate", "train --form", "compose", "evolve, bred", "export, adapter"}
_EACH = [
    pytest.param(one, id=one.name, marks=[pytest.mark.slow if one.name in _FEW else pytest.mark.harden])
    for one in COMMANDS
]
each_command = pytest.mark.parametrize("writing", _EACH)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    if not hasattr(os, "waitid"):
        pytest.skip("forks are watched by waitid, which this system has not")
    with Forks() as running:
        yield running


@pytest.fixture(scope="session")
def world(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands of the hardening tests read."""
    folder = tmp_path_factory.mktemp("odd-places")

    def run(line: str) -> None:
        env = {"GENEPOOL_CACHE": str(folder / "cache")}
        code = forks.start(words(line, folder), folder / "world", env, folder / "errors").wait()
        assert code == 0, (folder / "errors").read_text()

    found = hardening_world.build(folder / "world", run)
    # Another user may read it.
    for path in (folder, *folder.parents):
        if path != Path(path.anchor) and path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o055)
    return found


class OddPlace:
    """A folder that a command works in, with copies of what it needs.

    Args:
        folder: where it is made.
        world: what is copied and read.
        forks: what runs the command.
        writing: the command.
        name: of the folder.
    """

    def __init__(self, folder: Path, world: Path, forks: Forks, writing: Writing, name: bytes = b"work") -> None:
        self.folder, self.world, self.forks, self.writing = folder, world, forks, writing
        self.work = folder / os.fsdecode(name)
        self.work.mkdir()

    def fill(self) -> set[str]:
        """Puts there what the command needs; the names of all that is there."""
        for name in self.writing.needs:
            part = self.world / name
            (shutil.copytree if part.is_dir() else shutil.copy)(part, self.work / name)
        return self.names()

    def names(self) -> set[str]:
        """All that is there."""
        return {str(path.relative_to(self.work)) for path in self.work.rglob("*")}

    def run(self, **how: Any) -> tuple[int, str]:
        """The exit code of the command, and what it said."""
        errors = self.folder / "errors"
        env = {"GENEPOOL_CACHE": str(self.folder / "cache")}
        typed = words(self.writing.typed, self.world)
        code = self.forks.start(typed, self.work, env, errors, **how).wait()
        return code, errors.read_text(errors="replace")


@pytest.fixture
def odd(world: Path, forks: Forks, tmp_path: Path) -> Callable[..., OddPlace]:
    """`odd(writing)`: the place of a command."""
    return lambda writing, **more: OddPlace(tmp_path, world, forks, writing, **more)


def refused(code: int, said: str) -> None:
    """What must hold of a command that could not write."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2, said
    assert len(lines) == 1, said
    assert "Traceback" not in said


@contextmanager
def disk(place: Path, size: str) -> Iterator[None]:
    """A disk of its own, as small as is said."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@_AS_ROOT
@each_command
@pytest.mark.parametrize("room", [0, 8 << 10])
def test_a_disk_without_room(odd: Callable[..., OddPlace], writing: Writing, room: int) -> None:
    place = odd(writing)
    with disk(place.work, "64m"):
        before = place.fill()
        filler = place.work / "filler"
        handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
        with suppress(OSError):
            while True:
                os.write(handle, bytes(4096))
        os.ftruncate(handle, os.fstat(handle).st_size - room)
        os.close(handle)
        code, said = place.run()
        if not room or code:
            refused(code, said)
        left = {name for name in place.names() - before - {"filler"} if "sqlite" not in name}
        kept = ("out", "run", "library", "testbed", "bed", "project")
        assert not {name for name in left if not name.startswith(kept)}, left
        assert not any(".partial" in name for name in left), left


@_AS_ROOT
@each_command
def test_a_folder_of_another_user(odd: Callable[..., OddPlace], writing: Writing, tmp_path: Path) -> None:
    place = odd(writing)
    before = place.fill()
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache").chmod(0o777)
    code, said = place.run(trouble="nobody")
    refused(code, said)
    assert place.names() == before


@_AS_ROOT
@each_command
def test_a_disk_for_reading(odd: Callable[..., OddPlace], writing: Writing) -> None:
    place = odd(writing)
    with disk(place.work, "64m"):
        before = place.fill()
        subprocess.run(["mount", "-o", "remount,ro", str(place.work)], check=True)
        code, said = place.run()
        refused(code, said)
        assert place.names() == before


@each_command
def test_a_folder_whose_name_is_no_text(odd: Callable[..., OddPlace], writing: Writing) -> None:
    place = odd(writing, name=b"w\xff\xfe")
    place.fill()
    code, said = place.run()
    if code != 0:
        refused(code, said)


@each_command
def test_a_clock_that_goes_backwards(odd: Callable[..., OddPlace], writing: Writing) -> None:
    place = odd(writing)
    place.fill()
    code, said = place.run(trouble="clock")
    assert code == 0, said
