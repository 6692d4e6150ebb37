"""Outputs appear whole or not at all, and one process at a time writes to a path: lock, write beside, fsync, rename.

The one place that publishes files and folders. The work lies in `.OUT.partial`: a file is its own lock there, for a
folder `.OUT.lock` beside it is (`locking`). Both are gone when a command has finished. SIGKILL runs no handler and
leaves them; the next process takes the lock over and decides whether to go on with the work.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from genepool.errors import InputError
from genepool.locking import (
    NO_LOCKS,
    PATIENCE,
    POLL,
    busy,
    clear_lock,
    file_writer,
    locked,
    locking_pid,
    parents,
    partial_path,
    reporting_full_disk,
    until_done,
    waited_on,
    warn_no_locks,
)

# A file is written in one go, so whoever else writes it is through in a moment.
_FILE_PATIENCE = 30.0
# linux/fs.h
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


# ---------------------------------------------------------------------- files


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Writes `text` to `path` atomically: a reader sees the old file or the new one, never a part.

    Where the name of a folder is no text, which a path in JSON then is neither, it stands there as JSON's own escape.
    """
    write_bytes(path, text.encode(errors="backslashreplace"), overwrite=overwrite)


def write_bytes(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Writes `data` to `path` atomically; waits for another process that is writing there.

    A device or a pipe, such as /dev/stdout, is written to, not replaced.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    if _is_special(path):
        with reporting_full_disk(path), open(path, "wb") as special:
            special.write(data)
        return
    with staged_file(path, overwrite=overwrite, patience=_FILE_PATIENCE) as file:
        file.write(data)


@contextmanager
def staged_file(path: Path, *, overwrite: bool = False, patience: float = PATIENCE) -> Iterator[BinaryIO]:
    """A new file, open for writing and reading; published as `path` when the block ends well, removed when it raises.

    The partial file is its own lock, so nothing is left when a kill comes right after it was published.

    Args:
        path: where the file appears, whole.
        overwrite: replace what is at `path`.
        patience: seconds to wait for another process that is writing there.

    Raises:
        InputError: another process is writing there, `path` is taken, or the disk is full.
    """
    path = Path(os.path.abspath(path))
    check_file(path, overwrite=overwrite)
    partial = partial_path(path)
    with reporting_full_disk(path), parents(path):
        handle = _taken_partial(partial, path, patience)
        try:
            with open(handle, "w+b", closefd=False) as file:
                yield file
                file.flush()
                os.fsync(handle)
                _check_ours(partial, os.fstat(handle))
                check_file(path, overwrite=overwrite)
            os.replace(partial, path)
        except BaseException:
            # Before the lock is let go of: afterwards it may be another process's.
            until_done(lambda: _remove_if_same(partial, handle))
            raise
        finally:
            os.close(handle)
        sync_folder(path.parent)


def _taken_partial(partial: Path, path: Path, patience: float) -> int:
    """The partial file, empty, open and locked."""
    began = time.monotonic()
    while True:
        other = waited_on(path)
        if other is not None:
            if time.monotonic() - began >= patience:
                raise busy(*other, path)
            time.sleep(POLL)
            continue
        if partial.is_symlink() or partial.is_dir():
            _remove(partial)
        # Readable by whoever may read what this user makes; 0o666 is what `open` itself asks for.
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have published it between the two lines above.
            if os.path.samestat(os.fstat(handle), os.lstat(partial)):
                os.ftruncate(handle, 0)
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() - began >= patience:
                pid = locking_pid(handle)
                os.close(handle)
                raise busy(pid, "", path) from None
            time.sleep(POLL)
        except OSError as error:
            if error.errno in NO_LOCKS:
                warn_no_locks(path)
                os.ftruncate(handle, 0)
                return handle
            os.close(handle)
            raise
        except BaseException:
            # Ctrl-C: nobody else would clear up an empty file.
            until_done(functools.partial(_remove_if_free, partial, handle))
            os.close(handle)
            raise
        os.close(handle)


def clear_left(folder: Path) -> None:
    """Removes the partial files in a folder that no process is writing: what killed ones left."""
    with suppress(OSError):
        for partial in folder.glob(".*.partial"):
            with suppress(OSError):
                handle = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    _remove_if_free(partial, handle)
                finally:
                    os.close(handle)


def _remove_if_free(partial: Path, handle: int) -> None:
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_if_same(partial, handle)


def _remove_if_same(partial: Path, handle: int) -> None:
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), os.lstat(partial)):
            partial.unlink()


@contextmanager
def staged_path(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Where to write a file by any means, several times if need be; what is there in the end is published as `path`.

    Raises:
        InputError: as `staged_file`.
    """
    path = Path(os.path.abspath(path))
    check_file(path, overwrite=overwrite)
    with locked(path):
        check_file(path, overwrite=overwrite)
        folder = partial_path(path)
        _check_no_file(path)
        try:
            with reporting_full_disk(path):
                _remove(folder)
                folder.mkdir()
                yield folder / path.name
                _sync_tree(folder)
                check_file(path, overwrite=overwrite)
                os.replace(folder / path.name, path)
                sync_folder(path.parent)
        finally:
            until_done(lambda: _remove(folder))


def check_file(path: Path, *, overwrite: bool, pipes: bool = False) -> None:
    """Refuses an output file that cannot be written.

    Args:
        path: where the output is to appear.
        overwrite: whether the user said to replace what is there.
        pipes: whether a device or a pipe will do, such as /dev/stdout; nothing is replaced there.

    Raises:
        InputError: something is there and `overwrite` is false, or it is no regular file.
    """
    path = Path(path)
    with reporting_full_disk(path):
        if path.is_dir():
            raise InputError("is a folder", where=path, fix="Name a file")
        if _is_special(path):
            if not pipes:
                raise InputError("is a device or a pipe", where=path, fix="Name a file")
        elif os.path.lexists(path) and not overwrite:
            clear_lock(path)
            raise InputError("the file exists", where=path, fix="Name another, or pass --overwrite")


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------- folders


def check_free(out: Path, *, overwrite: bool, replaced: bool = True) -> None:
    """Refuses an output path that already holds something, unless the user said to replace it.

    Args:
        out: where the output is to appear.
        overwrite: whether the user said to replace what is there.
        replaced: whether the folder is replaced as a whole; otherwise files are put into it.

    Raises:
        InputError: `out` is a file, or a folder that is not empty, and `overwrite` is false; or the folder to replace
            is one that nobody means: the working folder, the home folder, or one that holds them.
    """
    out = Path(out)
    with reporting_full_disk(out):
        if out.is_symlink() and replaced and not overwrite:
            raise InputError("is a link", where=out, fix="Name its target, or pass --overwrite to replace the link")
        if _is_special(out):
            raise InputError("is a device or a pipe", where=out, fix="Name a new folder")
        if out.is_file() and not overwrite:
            raise InputError("the output exists and is a file", where=out, fix="Name a new folder, or pass --overwrite")
        if not out.is_dir() or not any(out.iterdir()):
            return
        if not overwrite:
            clear_lock(out)
            raise InputError("the output folder is not empty", where=out, fix="Name a new folder, or pass --overwrite")
        for what, folder in (("the working folder", Path.cwd()), ("your home folder", Path("~").expanduser())):
            if replaced and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(out)):
                raise InputError(
                    f"--overwrite would remove {what} with everything in it", where=out, fix="Name a folder of its own"
                )


@contextmanager
def staged_folder(
    out: Path, *, overwrite: bool = False, keep: Callable[[Path], bool] | None = None, is_locked: bool = False
) -> Iterator[Path]:
    """A folder to fill; published as `out` when the block ends well, removed when it raises.

    Args:
        out: where the folder appears, whole.
        overwrite: replace what is at `out`. The old folder stays in place until the new one is complete.
        keep: asked about a staging folder that a killed process left, once nobody else can write there: whether to go
            on in it instead of emptying it. The caller must be able to tell which of its files are complete.
        is_locked: the caller has `out` locked already.

    Raises:
        InputError: another process is writing there, `out` is taken, or the disk is full.
    """
    out = Path(os.path.abspath(out))
    check_free(out, overwrite=overwrite)
    with nullcontext() if is_locked else locked(out):
        check_free(out, overwrite=overwrite)
        staging = partial_path(out)
        _check_no_file(out)
        try:
            with reporting_full_disk(out):
                _put_back(out)
                if staging.is_symlink() or not (staging.is_dir() and keep is not None and keep(staging)):
                    _remove(staging)
                staging.mkdir(parents=True, exist_ok=True)
                ours = os.stat(staging)
                yield staging
                _sync_tree(staging)
                _check_ours(staging, ours)
                check_free(out, overwrite=overwrite)
                _publish(staging, out, overwrite)
        except BaseException:
            # Errors and Ctrl-C leave nothing behind; only a SIGKILL, which runs no handler, leaves work to resume.
            with suppress(OSError):
                until_done(lambda: _remove(staging))
            raise


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            sync_folder(path)
    sync_folder(folder)


def _publish(staging: Path, out: Path, overwrite: bool) -> None:
    """Puts `staging` in the place of whatever is at `out`; a kill at any moment leaves one of the two there."""
    if not overwrite or not os.path.lexists(out):
        # Of what may be there, the system replaces an empty folder alone.
        os.rename(staging, out)
    elif _exchange(staging, out):
        sync_folder(out.parent)
        _remove(staging)
    else:
        replaced = _replaced(out)
        _remove(replaced)
        os.rename(out, replaced)
        os.rename(staging, out)
        sync_folder(out.parent)
        _remove(replaced)
    sync_folder(out.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step; False where the system or the file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done: int = call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


def _replaced(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced.partial")


def _put_back(out: Path) -> None:
    """What a kill between two renames left aside comes back; what it left after them goes."""
    replaced = _replaced(out)
    if os.path.lexists(replaced) and not os.path.lexists(out):
        os.rename(replaced, out)
    _remove(replaced)


def _check_no_file(out: Path) -> None:
    """Whoever writes one file to `out` has its partial file locked, not `out`."""
    if (pid := file_writer(out)) is not None:
        raise busy(pid, "", out)


def _check_ours(staged: Path, ours: os.stat_result) -> None:
    """Only what this process wrote is published: somebody may have removed it and put something else there."""
    try:
        now = os.lstat(staged)
    except FileNotFoundError:
        now = None
    if now is None or not os.path.samestat(now, ours):
        raise InputError(
            "another process removed or replaced it while it was written",
            where=staged,
            fix="Run the command again",
        )


def _remove(path: Path) -> None:
    """Whatever is at `path`, if anything."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder, such as /dev/stdout, wherever that leads."""
    if os.path.abspath(path).startswith(("/dev/std", "/dev/fd/", "/proc/self/fd/")):
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def empty(folder: Path, order: Mapping[str, int]) -> None:
    """Empties a folder, or removes the link that stands for it.

    Args:
        folder: whose content goes.
        order: when files of these names go: below 0 first, above 0 last, so that a kill never leaves what lies.
    """
    if folder.is_symlink():
        folder.unlink()
        return
    for path in sorted(folder.iterdir(), key=lambda path: (order.get(path.name, 0), path.name)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
