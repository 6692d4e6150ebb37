"""The durable record of a run, a study or a training: one SQLite file of ours that a killed run goes on from.

What both share: the file is opened distrusted and refused where it is something else, damaged or newer; every write is
one transaction, on the disk when it returns; a value that is not what belongs in its place is named. Uses `database`;
`evolution.store` and `training.journal` say what is recorded.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from genepool.checked import kind_of, parsed_json
from genepool.database import disk_is_full, distrust, foreign_schema, transaction
from genepool.errors import InputError, refuse_newer

_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);"


class Record:
    """An open record; safe for one driver and any number of processes.

    Args:
        path: the SQLite file; created when missing.

    Attributes:
        noun: what is recorded, for errors.
        version: of the format.
        schema: the SQL of its tables, `meta` left out.
        tables: their names, `meta` among them.
        kept: what stays where a damaged record is begun anew, as the rest of a sentence; may be empty.

    Raises:
        InputError: the file is something else, damaged, or from a newer version.
    """

    noun: ClassVar[str]
    version: ClassVar[int]
    schema: ClassVar[str]
    tables: ClassVar[frozenset[str]]
    kept: ClassVar[str] = ""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with self._speaking():
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            self._check_own()
            with self._speaking():
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_META + self.schema)
            self._check_version()
        except BaseException:
            self._db.close()
            raise

    def _check_own(self) -> None:
        """Looked at before anything is changed, so that a database of something else stays as it is."""
        with self._speaking():
            distrust(self._db)
            foreign = foreign_schema(self._db, self.tables)
        if foreign:
            raise InputError(
                f"is not the record of a {self.noun}: {foreign}", where=self.path, fix="Name another --out"
            )

    def _check_version(self) -> None:
        version = self.get("format", self.version)
        refuse_newer(self.noun, version, self.version, self.path, "name another --out")
        if version != self.version:
            raise InputError(
                f"was written by another version of genepool (format {version}; this one reads {self.version})",
                where=self.path,
                fix="Resume with the version that wrote it, or name another --out",
            )

    def close(self) -> None:
        """Closes the file; everything is already on disk."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str, default: Any) -> Any:
        """A value of the `meta` table, of the kind of the default unless that is None.

        Raises:
            InputError: it is of another kind.
        """
        with self._speaking():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            return default
        with self._believing(f"its {key}"):
            found = parsed_json(row[0])
            wanted = {} if key == "settings" else default
            if wanted is not None and kind_of(found) != kind_of(wanted):
                raise ValueError(f"got {kind_of(found)}, expected {kind_of(wanted)}")
            return found

    def set(self, key: str, value: Any) -> None:
        """Writes one value of the `meta` table, durably."""
        with self._transaction():
            self._set(key, value)

    def _set(self, key: str, value: Any) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, json.dumps(value, sort_keys=True)),
        )

    def _rows(self, query: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._speaking():
            return self._db.execute(query, arguments).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._speaking(), transaction(self._db):
            yield

    @contextmanager
    def _believing(self, what: str) -> Iterator[None]:
        """A value that is not what belongs in its place is a damaged file."""
        try:
            yield
        except ValueError as error:
            raise InputError(
                f"{what} is damaged: {error}",
                where=self.path,
                fix="Restore the record from a copy, or pass --overwrite to start again",
            ) from None

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.ProgrammingError):
                raise
            if disk_is_full(self.path, error):
                raise InputError(
                    f"no space left on the disk for the {self.noun}",
                    where=self.path,
                    fix="Free some space and run again: what was finished is kept",
                ) from error
            raise InputError(
                f"cannot be used as a {self.noun} file ({error})",
                where=self.path,
                fix=f"Check the disk and the permissions; --overwrite starts a damaged {self.noun} again{self.kept}",
            ) from error
