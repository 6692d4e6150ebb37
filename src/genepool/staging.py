"""Outputs appear whole or not at all: write beside, fsync, rename.

The one place that publishes files and folders. `StagedFolder` also knows how to pick up the work of a process
that was killed: a staging folder is kept on SIGKILL, and removed on errors and Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genepool.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` atomically: a reader sees the old file or the new one, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with reporting_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def staging_path(out: Path) -> Path:
    """Where an output folder is built before it is published: `.OUT.partial` beside it."""
    out = Path(os.path.abspath(out))
    return out.with_name(f".{out.name}.partial")


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuses an output path that already holds something, unless the user said to replace it.

    Raises:
        InputError: `out` is a file, or a folder that is not empty, and `overwrite` is false.
    """
    out = Path(out)
    if out.is_file() and not overwrite:
        raise InputError("the output exists and is a file", where=out, fix="Name a new folder, or pass --overwrite")
    if out.is_dir() and not overwrite and any(out.iterdir()):
        raise InputError("the output folder is not empty", where=out, fix="Name a new folder, or pass --overwrite")


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False, keep_existing: bool = False) -> Iterator[Path]:
    """A folder to fill; published as `out` when the block ends well, removed when it raises.

    Args:
        out: where the folder appears, whole.
        overwrite: replace what is at `out`. The old folder stays in place until the new one is complete.
        keep_existing: go on in a staging folder that a killed process left, instead of emptying it. The caller
            must be able to tell which of its files are complete.
    """
    check_free(out, overwrite=overwrite)
    out = Path(os.path.abspath(out))
    staging = staging_path(out)
    if staging.exists() and not keep_existing:
        shutil.rmtree(staging)
    try:
        with reporting_full_disk(out):
            staging.mkdir(parents=True, exist_ok=True)
            yield staging
            _publish(staging, out)
    except BaseException:
        # Errors and Ctrl-C leave nothing behind; only a SIGKILL, which runs no handler, leaves work to resume.
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _publish(staging: Path, out: Path) -> None:
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    sync_folder(staging)
    replaced = out.with_name(f".{out.name}.replaced.partial")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.is_dir():
        os.rename(out, replaced)
    elif out.exists():
        out.unlink()
    os.rename(staging, out)
    sync_folder(out.parent)
    shutil.rmtree(replaced, ignore_errors=True)


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
                "a file would grow beyond what is allowed here",
                where=where,
                fix="Raise the limit, or use smaller shards",
            ) from error
        if error.errno == errno.EIO:
            raise InputError("the disk failed while it was written to", where=where, fix="Check the disk") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise InputError("cannot be written here", where=where, fix="Choose a folder you may write to") from error
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTSUP):
            raise InputError(
                f"nothing can be written here ({error.strerror})", where=where, fix="Name another path"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise InputError("a file stands where a folder is needed", where=where, fix="Name another path") from error
        raise
