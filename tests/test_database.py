"""Transactions: whole, or nothing of them, however a block ends."""

from __future__ import annotations

import sqlite3

import pytest

from genepool.database import transaction


@pytest.fixture
def connection() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.execute("CREATE TABLE numbers (n INTEGER)")
    return made


def _count(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM numbers").fetchone()
    return int(count)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_raises_leaves_nothing(connection: sqlite3.Connection, error: type[BaseException]) -> None:
    with transaction(connection):
        connection.execute("INSERT INTO numbers VALUES (1)")
    with pytest.raises(error), transaction(connection):
        connection.execute("INSERT INTO numbers VALUES (2)")
        raise error
    assert (_count(connection), connection.in_transaction) == (1, False)


def test_an_interrupt_that_closed_the_database_is_what_is_raised(connection: sqlite3.Connection) -> None:
    with pytest.raises(KeyboardInterrupt), transaction(connection):
        connection.close()
        raise KeyboardInterrupt
