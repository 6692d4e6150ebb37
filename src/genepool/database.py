"""What the ledger, the catalogue and the study file share.

A write is a transaction, one at a time; a full disk is named; what a database file from somebody else may hold is
limited.
"""

from __future__ import annotations

import functools
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
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
        # One that an interrupt has closed holds no transaction any more.
        with suppress(sqlite3.ProgrammingError):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def distrust(connection: sqlite3.Connection) -> None:
    """A database file is data: no function is called because its schema says so, and damaged pages are noticed.

    Text that is not UTF-8 comes as text that cannot be written again, which no check of ours lets through.
    """
    connection.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def foreign_schema(connection: sqlite3.Connection, tables: Collection[str], virtual: Collection[str] = ()) -> str:
    """What keeps a database from being ours: views and triggers, which would act, and other tables; empty when nothing.

    Args:
        connection: open, distrusted, nothing changed yet.
        tables: those that there are in ours. None of them need be there, but where others are, all of these must be.
        virtual: those of them that are virtual, and bring further tables of their own.
    """
    found: set[str] = set()
    for kind, name, statement in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind in ("view", "trigger"):
            return f"it holds a {kind}"
        if kind != "table" or str(name).startswith(("sqlite_", *(f"{one}_" for one in virtual))):
            continue
        if str(statement).upper().startswith("CREATE VIRTUAL") and name not in virtual:
            return f"its table {name!r} is virtual"
        found.add(name)
    return "it is of something else" if found - set(tables) and not found >= set(tables) else ""


def disk_is_full(path: Path, error: Exception) -> bool:
    """Whether `error`, met while using the database at `path`, means that no space is left."""
    if "full" in str(error):
        return True
    try:
        # In WAL mode SQLite may call a full disk an I/O error: is there room for one more page?
        return shutil.disk_usage(path.parent).free < 4096
    except OSError:
        return False
