"""Bytes of a file, read where they are asked for, by several threads; closed with the object.

What lazy file formats read their tensors with. Plain reads keep resident memory at the rows in work, and meet a file
that was cut short with an error where a mapping meets it with a signal.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from genepool.errors import InputError

DAMAGED = "The file is damaged or was cut short: fetch or write it again"


class FileBytes:
    """The bytes of one file. The file is opened when the first of them is read.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        self._lock = threading.Lock()

    def fill(self, into: memoryview, offset: int) -> None:
        """Fills a buffer with the bytes from `offset` on.

        Raises:
            InputError: the file ends before.
        """
        while into:
            count = os.preadv(self._descriptor(), [into], offset)
            if not count:
                raise InputError("the file became shorter while it was in use", where=self.path, fix=DAMAGED)
            into, offset = into[count:], offset + count

    def _descriptor(self) -> int:
        if self._handle is None:
            with self._lock:
                if self._handle is None:
                    self._handle = os.open(self.path, os.O_RDONLY)
                    # Closed with the object, so that a search over hundreds of candidates does not run out of files.
                    weakref.finalize(self, os.close, self._handle)
        return self._handle


@contextmanager
def opened(path: Path, title: str) -> Iterator[BinaryIO]:
    """The file, open for reading its header.

    Args:
        path: the file.
        title: what is expected there, after "a".

    Raises:
        InputError: nothing is there, or something that is no file, or it cannot be read.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"is a device or a pipe, expected a {title}", where=path, fix="Name a file")
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError("no such file", where=path, fix="Check the path") from None
    except IsADirectoryError:
        raise InputError(f"is a folder, expected a {title}", where=path, fix="Name a file") from None
    except PermissionError:
        raise InputError("cannot be read", where=path, fix="Check its permissions") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="Check the disk") from None
