"""Whole or not at all, and one writer at a time: what every output relies on."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genepool import locking, staging
from genepool.errors import InputError

# Holds the lock of argv[1], says so, and waits for a line.
HOLDER = """
import sys
from pathlib import Path
from typing import Any
from genepool.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(out: Path) -> Iterator[subprocess.Popen[str]]:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        yield other
    finally:
        other.kill()
        other.communicate()


def fill(out: Path, text: str, **options: bool) -> None:
    with staging.staged_folder(out, **options) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_another_process_is_told_who_writes_and_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held_elsewhere(out) as other:
        for write in (lambda: fill(out, "mine"), lambda: fill(out, "mine", overwrite=True)):
            with pytest.raises(InputError, match=rf"another process \(pid {other.pid}\) is writing here") as caught:
                write()
            assert caught.value.where == str(out)
        with pytest.raises(InputError, match="is writing here"), staging.staged_file(out):
            pass
        assert locking.holder(out) == other.pid
        assert names(tmp_path) == [".out.lock"]
    fill(out, "mine")
    assert (out / "inner" / "file").read_text() == "mine"
    assert names(tmp_path) == ["out"]


def test_a_killed_process_lets_go_of_its_lock(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held_elsewhere(out) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert names(tmp_path) == [".out.lock"]
        assert locking.holder(out) is None
        fill(out, "mine")
    assert names(tmp_path) == ["out"]


def test_a_file_written_in_one_go_waits_for_the_other_writer(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    with held_elsewhere(out) as other:
        writer = threading.Thread(target=staging.write_text, args=(out, "mine"))
        writer.start()
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        writer.join()
    assert out.read_text() == "mine"
    assert names(tmp_path) == ["page.html"]


def test_the_partial_file_is_its_own_lock(tmp_path: Path) -> None:
    with staging.staged_file(tmp_path / "file") as file:
        file.write(b"first")
        assert names(tmp_path) == [".file.partial"]
        assert locking.holder(tmp_path / "file") == os.getpid()
        for write in (lambda: staging.staged_file(tmp_path / "file").__enter__(), lambda: fill(tmp_path / "file", "x")):
            with pytest.raises(InputError):
                write()
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file"]
    # What a kill leaves of one, also of a longer one, is written over.
    locking.partial_path(tmp_path / "file").write_text("left by a kill, and long")
    staging.write_text(tmp_path / "file", "second")
    assert (tmp_path / "file").read_text() == "second"
    assert names(tmp_path) == ["file"]


def test_a_lock_left_beside_a_finished_output_goes_with_the_next_refusal(tmp_path: Path) -> None:
    fill(tmp_path / "out", "mine")
    staging.write_text(tmp_path / "file", "mine")
    for name in ("out", "file"):
        (tmp_path / f".{name}.lock").write_text("1 elsewhere")
    with pytest.raises(InputError, match="not empty"):
        fill(tmp_path / "out", "again")
    with pytest.raises(InputError, match="the file exists"):
        staging.write_text(tmp_path / "file", "again", overwrite=False)
    assert names(tmp_path) == ["file", "out"]


def test_many_threads_leave_one_whole_file_and_nothing_else(tmp_path: Path) -> None:
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=staging.write_text, args=(tmp_path / "file", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in texts
    assert names(tmp_path) == ["file"]


def test_what_appears_while_a_folder_is_filled_is_not_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="not empty"), staging.staged_folder(out) as folder:
        (folder / "file").write_text("mine")
        out.mkdir()
        (out / "theirs").write_text("theirs")
    assert (out / "theirs").read_text() == "theirs"
    with pytest.raises(InputError, match="the file exists"), staging.staged_file(out / "file") as file:
        (out / "file").write_text("theirs")
        file.write(b"mine")
    assert (out / "file").read_text() == "theirs"
    assert names(tmp_path) == ["out"]


def test_only_what_this_process_wrote_is_published(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="removed or replaced"), staging.staged_folder(out) as folder:
        folder.rename(tmp_path / "taken")
        folder.mkdir()
        (folder / "file").write_text("theirs")
    with pytest.raises(InputError, match="removed or replaced"), staging.staged_file(tmp_path / "file") as file:
        file.write(b"mine")
        locking.partial_path(tmp_path / "file").unlink()
        locking.partial_path(tmp_path / "file").write_text("theirs")
    # What somebody else put there is left to them.
    assert names(tmp_path) == [".file.partial", "taken"]


def test_an_error_leaves_the_old_output_and_no_empty_folders(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    for out, options in ((tmp_path / "out", {"overwrite": True}), (tmp_path / "new" / "deep" / "out", {})):
        with pytest.raises(ZeroDivisionError), staging.staged_folder(out, **options) as folder:
            (folder / "file").write_text(str(1 // 0))
    with pytest.raises(ZeroDivisionError), staging.staged_file(tmp_path / "new" / "file") as file:
        file.write(bytes([1 // 0]))
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "inner" / "file").read_text() == "old"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_output_is_replaced_by_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(staging, "_exchange", lambda one, other: False)
    out = tmp_path / "out"
    out.write_text("a file")
    for text in ("first", "second"):
        fill(out, text, overwrite=True)
        assert (out / "inner" / "file").read_text() == text
        assert names(tmp_path) == ["out"]


def test_what_a_kill_between_two_renames_set_aside_comes_back(tmp_path: Path) -> None:
    fill(tmp_path / ".out.replaced.partial", "old")
    with pytest.raises(ZeroDivisionError), staging.staged_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "file").write_text(str(1 // 0))
    assert (tmp_path / "out" / "inner" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_whether_to_go_on_is_asked_once_nobody_else_can_write(tmp_path: Path) -> None:
    left = locking.partial_path(tmp_path / "out")
    asked = []

    def keep(folder: Path) -> bool:
        asked.append((folder, locking.holder(tmp_path / "out")))
        return (folder / "mark").exists()

    for mark, expected in (("other", ["new"]), ("mark", ["mark", "new"])):
        left.mkdir()
        (left / mark).touch()
        with staging.staged_folder(tmp_path / "out", overwrite=True, keep=keep) as folder:
            (folder / "new").touch()
        assert names(tmp_path / "out") == expected
    assert asked == [(left, os.getpid())] * 2


def test_a_link_is_never_written_through(tmp_path: Path) -> None:
    fill(tmp_path / "precious", "precious")
    for name, target in (("folder", "precious"), ("file", "precious/inner/file"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
    for name in ("folder", "dangling"):
        with pytest.raises(InputError, match="is a link"):
            fill(tmp_path / name, "mine")
        fill(tmp_path / name, "mine", overwrite=True)
        assert (tmp_path / name / "inner" / "file").read_text() == "mine"
        assert not (tmp_path / name).is_symlink()
    staging.write_text(tmp_path / "file", "mine")
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "precious" / "inner" / "file").read_text() == "precious"
    assert names(tmp_path) == ["dangling", "file", "folder", "precious"]


@pytest.mark.parametrize("name", ["n" * 300, "loop", "loop/x", "file/x"])
def test_a_path_that_can_hold_nothing_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for write in (
        lambda: fill(tmp_path / name, "x"),
        lambda: staging.write_text(tmp_path / name, "x", overwrite=False),
    ):
        with pytest.raises(InputError):
            write()
    assert names(tmp_path) == ["file", "loop"]


def test_a_file_may_be_written_several_times_before_it_appears(tmp_path: Path) -> None:
    with staging.staged_path(tmp_path / "file") as beside:
        for text in ("first", "second"):
            beside.write_text(text)
            assert not (tmp_path / "file").exists()
            assert locking.holder(tmp_path / "file") == os.getpid()
    assert (tmp_path / "file").read_text() == "second"
    with pytest.raises(ZeroDivisionError), staging.staged_path(tmp_path / "file", overwrite=True) as beside:
        beside.write_text(str(1 // 0))
    assert (tmp_path / "file").read_text() == "second"
    assert names(tmp_path) == ["file"]


def test_a_link_in_the_place_of_work_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    locking.partial_path(tmp_path / "out").symlink_to(tmp_path / "precious")
    fill(tmp_path / "out", "mine")
    locking.partial_path(tmp_path / "page").symlink_to(tmp_path / "precious" / "file")
    staging.write_text(tmp_path / "page", "mine")
    assert (tmp_path / "precious" / "file").read_text() == "precious"
    assert names(tmp_path) == ["out", "page", "precious"]


def test_pipes_are_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    staging.write_text(pipe, "text")
    reader.join()
    assert heard == [b"text"]
    for write in (lambda: fill(pipe, "x", overwrite=True), lambda: staging.staged_file(pipe).__enter__()):
        with pytest.raises(InputError, match="a device or a pipe"):
            write()
    assert pipe.is_fifo()


def test_standard_output_is_written_to_wherever_it_leads(tmp_path: Path) -> None:
    code = "from pathlib import Path; from genepool.staging import write_text; write_text(Path('/dev/stdout'), 'text')"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with open(tmp_path / "file", "w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (piped.stdout, (tmp_path / "file").read_text()) == ("text", "text")
    assert names(tmp_path) == ["file"]


def test_overwrite_never_takes_the_folder_one_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    for out in (Path(".."), tmp_path / "work", tmp_path):
        with pytest.raises(InputError, match="the working folder"):
            fill(out, "mine", overwrite=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    (tmp_path / "home" / "me").mkdir(parents=True)
    with pytest.raises(InputError, match="your home folder"):
        fill(tmp_path / "home", "mine", overwrite=True)
    assert names(tmp_path) == ["home", "work"]


def test_a_file_system_without_locks_is_told_and_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    fill(tmp_path / "out", "mine")
    assert "has no file locks" in capsys.readouterr().err
    assert names(tmp_path) == ["out"]


def test_a_lock_file_that_says_nonsense_still_locks(tmp_path: Path) -> None:
    out, lock = tmp_path / "out", tmp_path / ".out.lock"
    with held_elsewhere(out):
        lock.write_text("\x1b[31m 12 evil")
        with pytest.raises(InputError, match="another process is writing here"):
            fill(out, "mine")
        assert locking.holder(out) == 0


def test_what_a_kill_left_is_cleared_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / ".dead.partial").write_bytes(b"half")
    (tmp_path / ".other").write_bytes(b"no partial file")
    (tmp_path / ".link.partial").symlink_to(tmp_path / ".other")
    with staging.staged_file(tmp_path / "alive") as file:
        file.write(b"whole")
        staging.clear_left(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {".alive.partial", ".other", ".link.partial"}
    assert (tmp_path / "alive").read_bytes() == b"whole"
    staging.clear_left(tmp_path / "missing")


@pytest.mark.parametrize("call", ["flock", "ftruncate", "fsync"])
def test_an_interrupt_while_a_file_is_begun_or_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    module = fcntl if call == "flock" else os
    plain, calls = getattr(module, call), 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(module, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        staging.write_bytes(tmp_path / "folder" / "out", b"data")
    assert calls
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_a_lock_is_taken_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("genepool.locking.os.ftruncate", interrupted)
        with pytest.raises(KeyboardInterrupt), locking.locked(tmp_path / "out"):
            pass
    assert list(tmp_path.iterdir()) == []
    with locking.locked(tmp_path / "out"):
        assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    assert list(tmp_path.iterdir()) == []
