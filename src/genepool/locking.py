"""One process at a time writes to a path, and what keeps a path from being written to, in one line for people.

`.OUT.lock` beside `OUT` is locked by the operating system, which lets go when the process dies. Used by `staging`, and
by whoever writes to a folder for longer than one command takes to publish it (a study).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from genepool import progress
from genepool.errors import InputError

# Long enough to outwait whoever only looks whether a path is locked, too short for anybody to notice.
PATIENCE = 0.3
POLL = 0.02
# What file systems without locks say when they are asked for one.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def partial_path(out: Path) -> Path:
    """Where an output is built before it is published: `.OUT.partial` beside it."""
    out = Path(os.path.abspath(out))
    return out.with_name(f".{out.name}.partial")


@contextmanager
def locked(out: Path, *, patience: float | None = PATIENCE, waiting: str = "") -> Iterator[None]:
    """Nobody else who asks for it writes to `out` during the block; the lock dies with its process.

    Folders above `out` are made, and removed again where they stay empty.

    Args:
        out: a file or folder, there or not.
        patience: seconds to wait for another process; None waits as long as it takes.
        waiting: what the progress bar says meanwhile.

    Raises:
        InputError: another process has the lock, or nothing can be written beside `out`.
    """
    out = Path(os.path.abspath(out))
    handle, path = None, out
    with parents(out):
        try:
            with reporting_full_disk(out):
                handle, path = _locked_file(out, patience, waiting)
            yield
        finally:
            if handle is not None:
                until_done(lambda: _let_go(handle, path))


@contextmanager
def parents(out: Path) -> Iterator[None]:
    """The folders above `out`; those that were made, and hold nothing in the end, are removed again."""
    made = [folder for folder in out.parents if not os.path.lexists(folder)]
    with reporting_full_disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _let_go(handle: int, path: Path) -> None:
    # While it is still held: whoever opened it meanwhile notices that it is gone, and makes a new one.
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        os.close(handle)


def until_done(action: Callable[[], None]) -> None:
    """Does it to its end, also when Ctrl-C comes in the middle of it."""
    try:
        action()
    except KeyboardInterrupt:
        action()
        raise


def clear_lock(out: Path) -> None:
    """Removes a lock that nobody holds: a kill right after the output was published leaves it beside it."""
    for path in _lock_paths(Path(os.path.abspath(out))):
        with suppress(OSError):
            if path.is_file() and (handle := _taken(path)) is not None:
                _let_go(handle, path)


def waited_on(out: Path) -> tuple[int, str] | None:
    """Who has `out` locked: its process, 0 when it does not say, and " on MACHINE" when that is another; else None."""
    for path in _lock_paths(Path(os.path.abspath(out))):
        if _is_locked(path):
            return _written_pid(path)
    return None


def holder(out: Path) -> int | None:
    """The process that is writing to `out`; None when none is, 0 when it does not say who it is."""
    other = waited_on(out)
    return other[0] if other is not None else file_writer(out)


def file_writer(out: Path) -> int | None:
    """The process that is writing `out` as one file, whose partial file is its own lock; None and 0 as for `holder`."""
    partial = partial_path(out)
    if not _is_locked(partial):
        return None
    try:
        handle = os.open(partial, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return locking_pid(handle)
    finally:
        os.close(handle)


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _lock_paths(out: Path) -> tuple[Path, Path]:
    """Where the lock is; the second place is for folders like a mounted volume, beside which nothing can be made."""
    return out.with_name(f".{out.name}.lock"), out / ".lock"


def _locked_file(out: Path, patience: float | None, waiting: str) -> tuple[int | None, Path]:
    """The lock's open file and its path; None where the file system has no locks."""
    beside, inside = _lock_paths(out)
    try:
        return _waited_for(beside, out, patience, waiting), beside
    except OSError as error:
        if error.errno not in _FORBIDDEN or not out.is_dir():
            raise
        return _waited_for(inside, out, patience, waiting), inside


def _waited_for(path: Path, out: Path, patience: float | None, waiting: str) -> int | None:
    began = time.monotonic()
    try:
        if (handle := _taken(path)) is not None:
            return handle
        with progress.bar(waiting) if waiting else nullcontext():
            while (handle := _taken(path)) is None:
                if patience is not None and time.monotonic() - began >= patience:
                    raise busy(*_written_pid(path), out)
                time.sleep(POLL)
        return handle
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        with suppress(OSError):
            path.unlink()
        warn_no_locks(out)
        return None


def warn_no_locks(out: Path) -> None:
    """Warns that nothing keeps two commands apart on this file system."""
    progress.message(f"{out.parent} has no file locks: run no other command that writes to {out.name} at the same time")


def _taken(path: Path) -> int | None:
    """The lock's open file, if it could be locked at once."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have removed it between the two lines above.
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            os.ftruncate(handle, 0)
            # On a full disk it does not say who has it.
            with suppress(OSError):
                os.pwrite(handle, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        # Ctrl-C on the way: what this made, or took, is removed again. What another holds is not.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                path.unlink()
        os.close(handle)
        raise
    os.close(handle)
    return None


def locking_pid(handle: int) -> int:
    """The process that has a file locked, as Linux tells; 0 where it does not."""
    place = f":{os.fstat(handle).st_ino}"
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(place):
                return max(0, int(words[4]))
    return 0


def busy(pid: int, host: str, out: Path) -> InputError:
    """The error that another process, `pid` on `host`, has `out` locked."""
    who = "this process" if pid == os.getpid() else f"another process{f' (pid {pid}{host})' if pid else ''}"
    return InputError(f"{who} is writing here", where=out, fix="Wait for it, or name another output")


def _written_pid(path: Path) -> tuple[int, str]:
    """The number of the process that holds a lock, and on which machine when it is another; 0 when it does not say."""
    try:
        with open(path, "rb") as file:
            pid, _, host = file.read(300).decode(errors="replace").strip().partition(" ")
    except OSError:
        return 0, ""
    if not (pid.isascii() and pid.isdecimal()) or len(pid) > 10:
        return 0, ""
    return int(pid), "" if host == socket.gethostname() or not host.isprintable() else f" on {host}"


@contextmanager
def reporting_full_disk(where: Path) -> Iterator[None]:
    """Turns the operating system's reasons not to write into one clear line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError("no space left on the disk", where=where, fix="Free some space and run again") from error
        if error.errno == errno.EFBIG:
            raise InputError(
                "the file would exceed the size limit of this process",
                where=where,
                fix="Raise the limit, or use smaller shards",
            ) from error
        if error.errno == errno.EIO:
            raise InputError("the disk failed while it was written to", where=where, fix="Check the disk") from error
        if error.errno in _FORBIDDEN:
            raise InputError("cannot be written here", where=where, fix="Choose a folder you may write to") from error
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTSUP):
            raise InputError(
                f"nothing can be written here ({error.strerror})", where=where, fix="Name another path"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EISDIR, errno.ENOTEMPTY):
            raise InputError("another file has this name", where=where, fix="Name another path") from error
        raise
