"""What the ledger and the study file share: one write at a time, all of it or none, and the name of a full disk."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what the block wrote when it ends, and nothing of it when it raises."""
    # IMMEDIATE: take the write lock at once, so that two writers queue instead of failing half way.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def distrust(connection: sqlite3.Connection) -> None:
    """A database file is data: no function is called because its schema says so, and damaged pages are noticed."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def disk_is_full(path: Path, error: Exception) -> bool:
    """Whether `error`, met while using the database at `path`, means that no space is left."""
    if "full" in str(error):
        return True
    try:
        # In WAL mode SQLite may call a full disk an I/O error: is there room for one more page?
        return shutil.disk_usage(path.parent).free < 4096
    except OSError:
        return False
