"""A library that is killed anywhere, or written to by several at once, stays whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_skills import skill

from genepool.skills.library import Library
from genepool.skills.library_check import check

_ADD = """
import sys
from genepool.skills.library import Library
import genepool.skills.sketch, numpy, torch
folder, *files = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
with Library(folder) as library:
    for file in files:
        print(library.add(file)[1], flush=True)
"""

# Runs one change of a library again and again, each time in a process of its own that is killed at a later line.
_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import numpy, torch
from genepool import progress
from genepool.skills.library import Library
from genepool.skills.library_check import check
what, place, made, stride = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
progress.set_quiet(True)
folder, fresh = place / "library", place / "fresh"

def change(library):
    library.add(made) if what == "add" else library.remove("killed")

def traced(limit):
    left = [limit]
    def line(frame, event, argument):
        if event == "line":
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return line
    return lambda frame, event, argument: line if "/genepool/skills/" in frame.f_code.co_filename else None

Library.create(fresh)
with Library(fresh) as library:
    library.add(place / "other.safetensors")
    if what == "rm":
        library.add(made)
killed, limit = 0, 1
while True:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(fresh, folder)
    child = os.fork()
    if not child:
        sys.settrace(traced(limit))
        with Library(folder) as library:
            change(library)
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with Library(folder) as library:
        names = [kept.name for kept in library.catalogue.all()]
        assert set(names) <= {"killed", "other"} and "other" in names, (limit, names)
        found = check(library)
        assert {problem.kind for problem in found} <= {"partial", "orphan"}, (limit, found)
        assert not [problem for problem in check(library, repair=True) if not problem.repaired]
        assert not check(library)
        if what == "add":
            library.add(made)
            assert [kept.name for kept in library.catalogue.all()] == ["killed", "other"]
            assert not check(library)
    if os.waitstatus_to_exitcode(status) == 0:
        break
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    killed, limit = killed + 1, limit + stride
print(killed)
"""


def _started(folder: Path, files: list[Path]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _ADD, str(folder), *map(str, files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
def test_two_processes_add_the_same_skills_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    Library.create(folder)
    files = [skill(tmp_path / f"{i}.safetensors", i) for i in range(12)]
    processes = [_started(folder, files) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        _go(process)
    answers = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    # Each skill is new to exactly one of them.
    for one, other in zip(*(out.split() for out, _ in answers), strict=True):
        assert {one, other} == {"True", "False"}
    with Library(folder) as library:
        assert len(library.catalogue.all()) == 12
        assert not check(library)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "stride"), [("add", 3), ("rm", 1)])
def test_a_kill_at_any_line_leaves_a_usable_library(tmp_path: Path, what: str, stride: int) -> None:
    made = skill(tmp_path / "killed.safetensors", 1, name="killed")
    skill(tmp_path / "other.safetensors", 2)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, what, str(tmp_path), str(made), str(stride)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    Library.create(folder)
    files = [skill(tmp_path / f"{i}.safetensors", i) for i in range(60)]
    draw = random.Random(0)
    finished: set[str] = set()
    for start in range(0, 60, 10):
        batch = files[start : start + 10]
        process = _started(folder, batch)
        assert process.stdout is not None
        process.stdout.readline()
        _go(process)
        # After some are in, the next one is in the middle of being added, wherever that is.
        for file in batch[: draw.randrange(1, 9)]:
            assert process.stdout.readline() == "True\n"
            finished.add(file.stem)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Library(folder) as library:
            names = {kept.name for kept in library.catalogue.all()}
            assert finished <= names
            assert {problem.kind for problem in check(library)} <= {"partial", "orphan"}
    with Library(folder) as library:
        assert all(problem.repaired for problem in check(library, repair=True))
        assert not check(library)
