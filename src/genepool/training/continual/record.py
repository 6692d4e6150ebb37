"""The durable record of tasks learned one after another: the outcome of every test example after every task.

`DIR/run.sqlite`. Stage 0 is the base, stage k the model after the k-th task. Every average of the matrix is computed
from these rows. Uses sqlite3; `run` writes, pages read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checked import is_number, is_text
from genepool.record import Record
from genepool.tasks import OutcomeTable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stages (stage INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, asked TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    stage INTEGER NOT NULL, task TEXT NOT NULL, place INTEGER NOT NULL, example TEXT NOT NULL, score REAL NOT NULL,
    output TEXT, PRIMARY KEY (stage, task, place));
"""


class SequenceRecord(Record):
    """The open record of tasks learned one after another; one writer at a time.

    Args:
        path: the SQLite file; created when missing.

    Raises:
        InputError: the file is something else, damaged, or from a newer version.
    """

    noun, version, schema = "training with a learner", 1, _SCHEMA
    tables = frozenset({"meta", "stages", "outcomes"})

    def begin(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Records what is learned; what is on record already is given back instead."""
        known: dict[str, Any] | None = self.get("settings", None)
        if known is not None and known != settings and not self._rows("SELECT 1 FROM stages LIMIT 1"):
            # It ended before the base was asked, by something that was wrong and has been mended since.
            known = None
        if known is None:
            with self._transaction():
                self._set("format", self.version)
                self._set("settings", settings)
        return known

    def asked(self, stage: int) -> str:
        """What the model of a stage was asked, as a digest; empty where it was not yet."""
        found = self._rows("SELECT asked FROM stages WHERE stage = ?", (stage,))
        with self._believing("a stage"):
            if found and not is_text(found[0][0]):
                raise ValueError("what it was asked is no text")
        return str(found[0][0]) if found else ""

    def fingerprint(self, stage: int) -> str:
        """Of the model of a stage that was asked."""
        found = self._rows("SELECT fingerprint FROM stages WHERE stage = ?", (stage,))
        with self._believing("a stage"):
            if not found or not is_text(found[0][0]):
                raise ValueError("it has no fingerprint")
        return str(found[0][0])

    def add(self, stage: int, tables: Sequence[OutcomeTable], fingerprint: str, asked: str) -> None:
        """Makes the outcomes of a stage durable, in the place of those that it had.

        Args:
            stage: 0 for the base.
            tables: of one model each, over different tasks.
            fingerprint: of what was asked.
            asked: what it was asked, as a digest.
        """
        rows = [
            (stage, task, place, example.key, outcome.score, outcome.output)
            for table in tables
            for model in table.models
            for task in table.tasks
            for place, (example, outcome) in enumerate(
                zip(table.examples(task), table.outcomes(model, task), strict=True)
            )
        ]
        with self._transaction():
            self._db.execute("DELETE FROM outcomes WHERE stage = ?", (stage,))
            self._db.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute(
                "INSERT INTO stages VALUES (?, ?, ?) ON CONFLICT (stage) DO UPDATE SET "
                "fingerprint = excluded.fingerprint, asked = excluded.asked",
                (stage, fingerprint, asked),
            )

    def forget_from(self, stage: int) -> None:
        """Removes the outcomes of a stage and of those after it."""
        with self._transaction():
            self._db.execute("DELETE FROM outcomes WHERE stage >= ?", (stage,))
            self._db.execute("DELETE FROM stages WHERE stage >= ?", (stage,))

    def scores(self, stage: int, task: str) -> NDArray[np.float64]:
        """Scores of the test examples of a task after a stage, (examples,), in their order."""
        rows = self._rows("SELECT score FROM outcomes WHERE stage = ? AND task = ? ORDER BY place", (stage, task))
        with self._believing("a score"):
            if not all(is_number(score, 0, 1) for (score,) in rows):
                raise ValueError("it is not from 0 to 1")
        return np.array([score for (score,) in rows], dtype=np.float64)
