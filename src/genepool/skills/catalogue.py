"""The catalogue of a library: one SQLite file with a row for each skill, their words for searching, their sketches.

SQLite's rollback journal, not its write-ahead log, so that a library on a read-only disk can be read; writers queue.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genepool import progress
from genepool.checked import is_digest, is_number, is_text, parsed_json
from genepool.database import disk_is_full, distrust, foreign_schema, transaction
from genepool.errors import InputError, refuse_newer
from genepool.skills.library_entry import COLUMNS, JSON_COLUMNS, LibraryEntry, called, entry_of, floats
from genepool.skills.sketch import LAYER_WIDTH, WIDTH, Sketch

if TYPE_CHECKING:
    from genepool.skills.sketch import Array

VERSION = 1
# "gene" in ASCII: SQLite's own place for whose database a file is.
APPLICATION = 0x67656E65
_SCHEMA = f"""
CREATE TABLE skills (
    id INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL, name TEXT UNIQUE NOT NULL, form TEXT NOT NULL,
    base_fingerprint TEXT NOT NULL, base_name TEXT NOT NULL, bytes INTEGER NOT NULL, tensors INTEGER NOT NULL,
    added TEXT NOT NULL, description TEXT NOT NULL, licence TEXT NOT NULL, lineage TEXT NOT NULL,
    training TEXT NOT NULL, scores TEXT NOT NULL, tags TEXT NOT NULL, error REAL);
CREATE TABLE parents (
    child TEXT NOT NULL REFERENCES skills (digest) ON DELETE CASCADE, parent TEXT NOT NULL,
    PRIMARY KEY (child, parent)) WITHOUT ROWID;
CREATE INDEX parents_by_parent ON parents (parent);
CREATE TABLE sketches (
    digest TEXT PRIMARY KEY REFERENCES skills (digest) ON DELETE CASCADE, whole BLOB NOT NULL,
    layer_names TEXT NOT NULL, layers BLOB NOT NULL, squared REAL NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (name, description, tags, scores, base, tokenize = 'porter unicode61');
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""
# How much a word counts in the name, description, tags, score names and base name.
_WEIGHTS = (8.0, 4.0, 6.0, 4.0, 1.0)
_TABLES = {"skills", "parents", "sketches", "words"}
_MAKE = "Make one with genepool library init"


class Catalogue:
    """An open catalogue; also a context manager. What it reads may be used by one thread.

    Args:
        path: the file; it must be there.

    Raises:
        InputError: no catalogue, a damaged one, or one that a newer genepool wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_told = False
        if not path.is_file():
            raise InputError("is not a library", where=path.parent, fix=_MAKE)
        with self._errors():
            self._db = self._open()
        try:
            with self._errors():
                found, version = _identity(self._db)
                distrust(self._db)
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
            if not found and not version and path.stat().st_size == 0:
                raise InputError("the library was created only in part", where=path.parent, fix=_MAKE)
            self._check(path, found, version)
            with self._errors():
                if foreign := foreign_schema(self._db, _TABLES, ("words",)):
                    raise InputError(
                        f"is not a catalogue: {foreign}", where=path, fix="Name another folder with --library"
                    )
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def _check(path: Path, application: int, version: int) -> None:
        if application != APPLICATION or version < 1:
            raise InputError("is a database of another program", where=path, fix="Name another folder with --library")
        refuse_newer("library", version, VERSION, path, "name another library")

    @classmethod
    def create(cls, path: Path) -> bool:
        """Makes an empty catalogue, whole or not at all.

        Returns:
            Whether there was none.

        Raises:
            InputError: something else is there, or it cannot be written.
        """
        with cls._reporting(path):
            connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            try:
                with transaction(connection):
                    application, version = _identity(connection)
                    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                    if application or version or tables:
                        cls._check(path, application, version)
                        return False
                    for statement in _SCHEMA.split(";\n"):
                        connection.execute(statement)
                    return True
            finally:
                connection.close()

    def _open(self) -> sqlite3.Connection:
        address = self.path.absolute().as_uri()
        connection = None
        try:
            # For reading too: a writer that was killed left a journal that the next one to open the file applies.
            connection = sqlite3.connect(f"{address}?mode=rw", uri=True, timeout=60, isolation_level=None)
            _identity(connection)
        except sqlite3.OperationalError as error:
            if connection is not None:
                connection.close()
            journal = self.path.with_name(f"{self.path.name}-journal")
            if _code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
                raise
            if journal.exists() and journal.stat().st_size:
                raise InputError(
                    "an interrupted write must be rolled back first",
                    where=self.path,
                    fix="List the library once where it is writable",
                ) from error
            # Some read-only disks have no locks either.
            connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
        return connection

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ reading

    def all(self) -> list[LibraryEntry]:
        """Every skill, by name. Rows that are damaged are left out, and told once."""
        return self._several("ORDER BY name")

    def by_digest(self, digest: str) -> LibraryEntry | None:
        """The skill of a file."""
        return self._one("WHERE digest = ?", digest)

    def has(self, digest: str) -> bool:
        """Whether a row names a file, be the rest of it damaged or not."""
        with self._errors():
            return self._db.execute("SELECT 1 FROM skills WHERE digest = ?", (digest,)).fetchone() is not None

    def by_name(self, name: str) -> LibraryEntry | None:
        """The skill of a name."""
        return self._one("WHERE name = ?", name)

    def by_prefix(self, prefix: str) -> list[LibraryEntry]:
        """The skills whose digests begin so; the prefix is hex."""
        return self._several("WHERE substr(digest, 1, ?) = ? ORDER BY name", len(prefix), prefix)

    def children(self, digest: str) -> list[LibraryEntry]:
        """The skills that were made of one."""
        return self._several("WHERE digest IN (SELECT child FROM parents WHERE parent = ?) ORDER BY name", digest)

    def damaged(self) -> list[tuple[int, str, str]]:
        """Rows that cannot be believed: (row number, what the skill is called as far as it says, what is wrong)."""
        with self._errors():
            rows = self._db.execute(f"SELECT id, {', '.join(COLUMNS)} FROM skills ORDER BY id").fetchall()
        found = []
        for number, *row in rows:
            try:
                entry_of(row)
            except ValueError as error:
                found.append((number, called(row), str(error)))
        return found

    def matching(self, query: str, limit: int) -> list[tuple[LibraryEntry, float]]:
        """Skills whose words match an FTS5 query, the best first, with their BM25 scores (higher is better)."""
        weights = ", ".join(map(str, _WEIGHTS))
        with self._errors():
            rows = self._db.execute(
                f"SELECT {', '.join(f's.{column}' for column in COLUMNS)}, -bm25(words, {weights}) AS score "
                "FROM words JOIN skills s ON s.id = words.rowid WHERE words MATCH ? ORDER BY score DESC, s.name "
                "LIMIT ?",
                (query, limit),
            ).fetchall()
        return [(kept, row[-1]) for row in rows if (kept := self._believed(row[:-1])) is not None]

    def sketches(self) -> list[tuple[str, Array]]:
        """(digest, whole sketch) of every skill, by name; damaged ones are left out."""
        with self._errors():
            rows = self._db.execute(
                "SELECT k.digest, k.whole FROM sketches k JOIN skills s USING (digest) ORDER BY s.name"
            ).fetchall()
        return [
            (digest, sketch)
            for digest, whole in rows
            if is_digest(digest) and (sketch := floats(whole, WIDTH)) is not None and len(sketch) == WIDTH
        ]

    def sketch(self, digest: str) -> Sketch | None:
        """All of one skill's sketch; None where there is none, or a damaged one."""
        with self._errors():
            row = self._db.execute(
                "SELECT whole, layer_names, layers, squared FROM sketches WHERE digest = ?", (digest,)
            ).fetchone()
        if row is None:
            return None
        whole, layers, squared = floats(row[0], WIDTH), floats(row[2], LAYER_WIDTH), row[3]
        try:
            names = parsed_json(row[1])
        except ValueError:
            names = None
        if whole is None or layers is None or not is_number(squared, 0) or not isinstance(names, list):
            return None
        each = layers.reshape(-1, LAYER_WIDTH)
        if len(whole) != WIDTH or len(names) != len(each) or not all(map(is_text, names)):
            return None
        return Sketch(whole, dict(zip(names, each, strict=True)), squared)

    def integrity(self) -> str:
        """What SQLite finds wrong with the file; "ok" when nothing."""
        with self._errors():
            (answer,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        return str(answer)

    # ------------------------------------------------------------------ writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One change at a time: the block's, all of it or none. What it does to the folder of files is its own care.

        Raises:
            InputError: the library cannot be written to, or no space is left.
        """
        with self._errors(), transaction(self._db):
            yield

    def insert(self, kept: LibraryEntry, sketch: Sketch) -> None:
        """Adds a row; call it in `writing`."""
        import numpy as np

        values = [getattr(kept, column) for column in COLUMNS]
        stored = [
            json.dumps(value, ensure_ascii=False, allow_nan=False) if column in JSON_COLUMNS else value
            for column, value in zip(COLUMNS, values, strict=True)
        ]
        marks = ", ".join("?" * len(COLUMNS))
        cursor = self._db.execute(f"INSERT INTO skills ({', '.join(COLUMNS)}) VALUES ({marks})", stored)
        self._db.executemany(
            "INSERT OR IGNORE INTO parents VALUES (?, ?)", [(kept.digest, parent) for parent in kept.parents]
        )
        layers = np.stack(list(sketch.layers.values())) if sketch.layers else np.zeros((0, LAYER_WIDTH))
        self._db.execute(
            "INSERT OR REPLACE INTO sketches VALUES (?, ?, ?, ?, ?)",
            (
                kept.digest,
                sketch.whole.astype("<f4").tobytes(),
                json.dumps(list(sketch.layers)),
                layers.astype("<f4").tobytes(),
                sketch.squared,
            ),
        )
        words = (kept.name, kept.description, " ".join(kept.tags), " ".join(kept.scores), kept.base_name)
        self._db.execute(
            "INSERT INTO words (rowid, name, description, tags, scores, base) VALUES (?, ?, ?, ?, ?, ?)",
            (cursor.lastrowid, *words),
        )

    def delete(self, digest: str) -> None:
        """Removes a row; call it in `writing`."""
        self._db.execute("DELETE FROM words WHERE rowid = (SELECT id FROM skills WHERE digest = ?)", (digest,))
        self._db.execute("DELETE FROM skills WHERE digest = ?", (digest,))

    def delete_row(self, number: int) -> None:
        """Removes a damaged row by its number; call it in `writing`."""
        self._db.execute("DELETE FROM words WHERE rowid = ?", (number,))
        self._db.execute("DELETE FROM skills WHERE id = ?", (number,))
        # What belonged to the digest that the row had before it was damaged.
        self._db.execute("DELETE FROM sketches WHERE digest NOT IN (SELECT digest FROM skills)")
        self._db.execute("DELETE FROM parents WHERE child NOT IN (SELECT digest FROM skills)")

    # ------------------------------------------------------------------ plumbing

    def _several(self, clause: str, *values: str | int) -> list[LibraryEntry]:
        return [kept for row in self._rows(clause, *values) if (kept := self._believed(row)) is not None]

    def _one(self, clause: str, value: str) -> LibraryEntry | None:
        row = next(iter(self._rows(clause, value)), None)
        try:
            return None if row is None else entry_of(row)
        except ValueError as error:
            raise InputError(
                f"the row of {called(row or ())} is damaged: {error}",
                where=self.path,
                fix="Remove the row with genepool library check --repair; its file stays",
            ) from None

    def _rows(self, clause: str, *values: str | int) -> list[Any]:
        with self._errors():
            return self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM skills {clause}", values).fetchall()

    def _believed(self, row: Sequence[Any]) -> LibraryEntry | None:
        try:
            return entry_of(row)
        except ValueError as error:
            if not self._has_told:
                self._has_told = True
                progress.message(
                    f"{self.path}: the row of {called(row)} is damaged and left out: {error}. "
                    "`genepool library check` lists all such rows"
                )
            return None

    def _errors(self) -> Any:
        return self._reporting(self.path)

    @staticmethod
    @contextmanager
    def _reporting(path: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.ProgrammingError):
                raise
            what, fix = _reason(error, path)
            raise InputError(what, where=path, fix=fix) from error


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    """(whose database it is, its version)."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary code of an error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _reason(error: sqlite3.DatabaseError, path: Path) -> tuple[str, str]:
    """What is wrong, and the way out."""
    code = _code(error)
    if code == sqlite3.SQLITE_NOTADB:
        return "not a catalogue of skills", "Name another folder with --library"
    if code == sqlite3.SQLITE_CORRUPT:
        return f"the catalogue is damaged ({error})", "Take it from a backup; the skills in files/ can be added anew"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process keeps writing to the library", "Wait for it and run again"
    if code == sqlite3.SQLITE_FULL or disk_is_full(path, error):
        return "no space left on the disk for the library", "Free some space and run again"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return "the library cannot be written to here", "Check the permissions, or name another with --library"
    return f"the catalogue cannot be used ({error})", "Check the disk, or name another with --library"
