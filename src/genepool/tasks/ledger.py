"""The ledger: every outcome ever computed, one SQLite file, so that an evaluation done once is never done again.

A row belongs to (model fingerprint, example content, how it was asked). One commit per evaluation, synchronous=FULL:
what was committed survives a kill and a power loss. Several processes may read and write at once.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from genepool import progress
from genepool.checked import is_number, is_text, is_whole, kind_of, numbers, parsed_json
from genepool.database import disk_is_full, distrust, foreign_schema, transaction
from genepool.errors import InputError, listed, nearest, refuse_newer

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, asking TEXT NOT NULL, UNIQUE (name, asking));
CREATE TABLE IF NOT EXISTS examples (id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    model INTEGER NOT NULL REFERENCES models, task INTEGER NOT NULL REFERENCES tasks,
    example INTEGER NOT NULL REFERENCES examples, score REAL NOT NULL, output TEXT, detail TEXT,
    PRIMARY KEY (model, task, example)) WITHOUT ROWID;
"""
_TABLES = {"models", "tasks", "examples", "outcomes"}


@dataclass(frozen=True)
class Outcome:
    """How one model did on one example.

    Attributes:
        score: from 0 to 1.
        output: what the model wrote; None when it was judged without writing.
        detail: further numbers, such as the answer's log-likelihood ("logprob") and "token_accuracy".
    """

    score: float
    output: str | None = None
    detail: Mapping[str, float] = field(default_factory=dict)


class RecordedModel(NamedTuple):
    """A model that a ledger holds outcomes of."""

    fingerprint: str
    name: str


def default_path() -> Path:
    """`$GENEPOOL_LEDGER`, else `genepool.sqlite` in the working folder."""
    return Path(os.environ.get("GENEPOOL_LEDGER") or "genepool.sqlite")


def outcome_of(score: object, output: object, detail: object) -> Outcome:
    """An outcome out of its columns.

    Raises:
        ValueError: one of them does not hold what belongs there.
    """
    if not is_number(score, 0, 1):
        raise ValueError(f"got the score {score!r:.80}")
    if output is not None and not is_text(output):
        raise ValueError(f"got {kind_of(output)}, expected the text that the model wrote")
    return Outcome(score, output, numbers(parsed_json(detail)) if detail is not None else {})


def _is_damaged(score: object, output: object, detail: object) -> bool:
    try:
        outcome_of(score, output, detail)
    except ValueError:
        return True
    return False


class Ledger:
    """An open ledger; also a context manager.

    Args:
        path: the file, made when it is not there; the default path when None.

    Raises:
        InputError: the file is not a ledger, is damaged, or was written by a newer genepool.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        distrust(self._db)
        self._db.create_function("is_damaged", 3, _is_damaged, deterministic=True)
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        # Other programs number their databases as well: only the tables tell whose it is. Looked at before anything
        # is changed, so that a database of something else stays as it is.
        if foreign := foreign_schema(self._db, _TABLES):
            raise InputError(f"is not a ledger: {foreign}", where=self.path, fix="Name another ledger")
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        refuse_newer("ledger", version, VERSION, self.path, "name another ledger")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if version < VERSION or not tables >= _TABLES:
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Closes the file; everything committed is already safe."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ outcomes

    def find(self, fingerprint: str, asking: str, keys: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of one model on some examples, by example key, as far as they are known.

        The task's name is no part of the question: the same example asked the same way is the same evaluation.
        A damaged outcome is not believed, but told, and asked for again.
        """
        wanted, found, damaged = set(keys), dict[str, Outcome](), 0
        with self._errors():
            rows = self._db.execute(
                "SELECT e.key, o.score, o.output, o.detail FROM outcomes o JOIN models m ON m.id = o.model "
                "JOIN tasks t ON t.id = o.task JOIN examples e ON e.id = o.example "
                # Under two tasks' names there may be two rows: one with its output is the better answer.
                "WHERE m.fingerprint = ? AND t.asking = ? ORDER BY o.output IS NOT NULL",
                (fingerprint, asking),
            )
            for key, *row in rows:
                if key in wanted:
                    try:
                        found[key] = outcome_of(*row)
                    except ValueError as error:
                        damaged, what = damaged + 1, f"example {key[:12]}: {error}"
        if damaged:
            progress.message(f"{self.path}: {damaged:,} damaged outcomes are not used ({what})")
        return found

    def record(
        self,
        fingerprint: str,
        name: str,
        task: str,
        asking: str,
        outcomes: Iterable[tuple[str, str, Outcome]],
    ) -> None:
        """Commits the outcomes of one evaluation: all of them or none.

        Args:
            fingerprint, name: the model.
            task, asking: what was asked, and `Task.asking`.
            outcomes: (example key, example id, outcome). A row that is there stays, unless it is damaged or lacks the
                output that the new one has: then the new one replaces it whole.
        """
        with self._transaction():
            self._insert(fingerprint, name, task, asking, outcomes)

    def record_all(self, evaluations: Iterable[tuple[str, str, str, str, Sequence[tuple[str, str, Outcome]]]]) -> int:
        """Commits several evaluations, each as `record` takes it: all of them or none.

        Returns:
            How many rows were not there before.
        """
        with self._transaction():
            (before,) = self._db.execute("SELECT count(*) FROM outcomes").fetchone()
            for evaluation in evaluations:
                self._insert(*evaluation)
            (after,) = self._db.execute("SELECT count(*) FROM outcomes").fetchone()
        return int(after - before)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Everything in the ledger, a row at a time, as plain data: what `outcomes export` writes.

        Damaged rows are left out, and told in the end.
        """
        names = ("fingerprint", "model", "task", "asking", "example", "id")
        damaged, what = 0, ""
        with self._errors():
            for row in self._db.execute(
                "SELECT m.fingerprint, m.name, t.name, t.asking, e.key, e.name, o.score, o.output, o.detail "
                "FROM outcomes o JOIN models m ON m.id = o.model JOIN tasks t ON t.id = o.task "
                "JOIN examples e ON e.id = o.example ORDER BY o.model, o.task, o.example"
            ):
                texts = dict(zip(names, row[:6], strict=True))
                try:
                    if wrong := next((name for name, text in texts.items() if not is_text(text)), ""):
                        raise ValueError(f"got {kind_of(texts[wrong])}, expected its {wrong}")
                    outcome = outcome_of(*row[6:])
                except ValueError as error:
                    damaged, what = damaged + 1, f"example {texts['example']!r:.20}: {error}"
                    continue
                yield {**texts, "score": outcome.score, "output": outcome.output, "detail": dict(outcome.detail)}
        if damaged:
            progress.message(f"{self.path}: {damaged:,} damaged outcomes are left out ({what})")

    # ------------------------------------------------------------------ looking back

    def model(self, name: str) -> RecordedModel:
        """The model of a name, or of the beginning of a fingerprint (six characters or more).

        Raises:
            InputError: none has it, or several do.
        """
        with self._errors():
            rows = self._db.execute("SELECT fingerprint, name FROM models").fetchall()
        known = [RecordedModel(*row) for row in rows if all(map(is_text, row))]
        found = [model for model in known if model.name == name or model.fingerprint == name]
        if not found and len(name) >= 6:
            found = [model for model in known if model.fingerprint.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            prints = listed(model.fingerprint[:12] for model in found)
            raise InputError(
                f"{len(found)} models on record are called '{name}'",
                where=self.path,
                fix=f"Give its fingerprint: {prints}",
            )
        raise InputError(f"no model '{name}' on record", where=self.path, fix=nearest(name, {m.name for m in known}))

    def rows_of(self, query: str, parameters: Sequence[object] = (), *, apart: bool = False) -> list[tuple[Any, ...]]:
        """The rows a query finds; for the modules beside this one, which know the tables.

        Args:
            query, parameters: SQL that only reads.
            apart: over a connection of its own, so that several threads may look at once.
        """
        with self._errors():
            if not apart:
                return self._db.execute(query, parameters).fetchall()
            with closing(sqlite3.connect(self.path, timeout=60)) as connection:
                distrust(connection)
                return connection.execute(query, parameters).fetchall()

    # ------------------------------------------------------------------ plumbing

    def _insert(
        self, fingerprint: str, name: str, task: str, asking: str, outcomes: Iterable[tuple[str, str, Outcome]]
    ) -> None:
        model = self._id("models", ("fingerprint", fingerprint), name=name)
        task_id = self._id("tasks", ("name", task), ("asking", asking))
        rows = []
        for key, example, outcome in outcomes:
            # A model whose numbers overflow has likelihoods that are none.
            numbers = {what: value for what, value in outcome.detail.items() if math.isfinite(value)}
            detail = json.dumps(numbers) if numbers else None
            number = self._id("examples", ("key", key), name=example)
            rows.append((model, task_id, number, outcome.score, outcome.output, detail))
        self._db.executemany(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "score = excluded.score, output = excluded.output, detail = excluded.detail "
            "WHERE (outcomes.output IS NULL AND excluded.output IS NOT NULL) "
            "OR is_damaged(outcomes.score, outcomes.output, outcomes.detail)",
            rows,
        )

    def _id(self, table: str, *where: tuple[str, str], **extra: str) -> int:
        columns = [*dict(where), *extra]
        test = " AND ".join(f"{column} = ?" for column, _ in where)
        values = [value for _, value in where]
        found = self._db.execute(f"SELECT id FROM {table} WHERE {test}", values).fetchone()
        if found:
            if not is_whole(found[0]):
                raise sqlite3.DatabaseError(f"the number of a row of {table} is {found[0]!r:.40}")
            return found[0]
        marks = ", ".join("?" * len(columns))
        cursor = self._db.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", [*values, *extra.values()]
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors(), transaction(self._db):
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            if isinstance(error, sqlite3.ProgrammingError):
                raise
            if disk_is_full(self.path, error):
                raise InputError(
                    "no space left on the disk for the ledger", where=self.path, fix="Free some space and run again"
                ) from error
            raise InputError(
                f"the ledger cannot be used ({error})",
                where=self.path,
                fix="Check the file, or name another with --ledger",
            ) from error
