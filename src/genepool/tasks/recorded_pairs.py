"""What two models on record answered to the same examples, read from a ledger without asking anyone anything.

Ledgers grow to millions of rows, of which most are right or wrong: those are counted by the database, several tasks at
once, and only scores by degree are fetched row by row. Used by `genepool compare` without `--tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from genepool import progress
from genepool.checked import is_number, is_text
from genepool.errors import InputError, nearest
from genepool.tasks.ledger import Ledger, RecordedModel
from genepool.tasks.pairs import Pairs

_THREADS = 4
_JOINED = (
    # CROSS JOIN keeps the order: the old model's rows one after the other, the new one's each by its key.
    "FROM outcomes a CROSS JOIN outcomes b ON b.model = ? AND b.task = a.task AND b.example = a.example "
    "WHERE a.model = ? AND a.task = ?"
)
_CELLS = [(old, new, other) for old in (0, 1) for new in (0, 1) for other in (0, 1)]
_COUNTED = (
    "SELECT "
    + ", ".join(
        f"total(a.score = {old} AND b.score = {new} AND (a.output <> b.output) IS {other})"
        if other
        else f"total(a.score = {old} AND b.score = {new} AND (a.output <> b.output) IS NOT 1)"
        for old, new, other in _CELLS
    )
    + f", count(*), total(a.output IS NULL OR b.output IS NULL) {_JOINED}"
)


# A score of another type, or out of range, is neither.
_WRONG, _RIGHT = "{0}.score BETWEEN 0 AND 0.5", "{0}.score > 0.5 AND {0}.score <= 1"


class RecordedFlip(NamedTuple):
    """One example that only one of two models solved: its name, and what each wrote, as far as it was kept."""

    task: str
    example: str
    old_output: str | None
    new_output: str | None
    gained: bool


@dataclass(frozen=True)
class RecordedTask:
    """A task that both models were asked in the same way.

    Attributes:
        number: its row in the ledger.
        name: the task's; with the beginning of how it was asked where both were asked in several ways.
    """

    number: int
    name: str


def recorded_tasks(
    ledger: Ledger, old: RecordedModel, new: RecordedModel, tasks: Sequence[str] | None = None
) -> list[RecordedTask]:
    """The tasks that a ledger holds outcomes of both models for.

    Args:
        ledger: where to look.
        old, new: the models.
        tasks: only these; all when None.

    Raises:
        InputError: there is none, or not one of those named.
    """
    asked = "EXISTS (SELECT 1 FROM outcomes o JOIN models m ON m.id = o.model WHERE m.fingerprint = ? AND task = t.id)"
    ways = ledger.rows_of(
        f"SELECT t.id, t.name, t.asking FROM tasks t WHERE {asked} AND {asked} ORDER BY t.id",
        (old.fingerprint, new.fingerprint),
    )
    ways = [way for way in ways if is_text(way[1]) and is_text(way[2])]
    names = [name for _, name, _ in ways]
    for task in tasks or ():
        if task not in names:
            raise InputError(
                f"the task '{task}' is not on record for both models", where=ledger.path, fix=nearest(task, set(names))
            )
    if not ways:
        raise InputError(
            f"'{old.name}' and '{new.name}' have no task on record that both were asked in the same way",
            where=ledger.path,
            fix="Evaluate both with --tasks",
        )
    return [
        RecordedTask(number, name if names.count(name) == 1 else f"{name} ({asking[:8]})")
        for number, name, asking in ways
        if not tasks or name in tasks
    ]


def recorded_pairs(
    ledger: Ledger, old: RecordedModel, new: RecordedModel, tasks: Sequence[RecordedTask]
) -> list[Pairs]:
    """The outcomes of two models on the examples both were asked, task by task; in no particular order of examples."""
    numbers = [_number(ledger, model) for model in (old, new)]

    def read(task: RecordedTask) -> Pairs:
        key = (numbers[1], numbers[0], task.number)
        *counts, n, unkept = ledger.rows_of(_COUNTED, key, apart=True)[0]
        if sum(counts) == n:
            cells = np.repeat(np.array(_CELLS), np.array(counts, dtype=np.int64), axis=0)
        else:
            rows = ledger.rows_of(f"SELECT a.score, b.score, (a.output <> b.output) IS 1 {_JOINED}", key, apart=True)
            whole = [row for row in rows if is_number(row[0], 0, 1) and is_number(row[1], 0, 1)]
            if len(whole) < len(rows):
                progress.message(
                    f"{ledger.path}: {len(rows) - len(whole):,} damaged outcomes of {task.name} are left out"
                )
            cells = np.array(whole).reshape(-1, 3)
        only = [_count(ledger, number, task) - int(n) for number in numbers]
        scores = cells[:, :2].astype(np.float64)
        other = None if unkept else cells[:, 2] == 1
        return Pairs(task.name, scores[:, 0], scores[:, 1], other, *only)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, tasks))


def recorded_flips(
    ledger: Ledger, old: RecordedModel, new: RecordedModel, task: RecordedTask, limit: int
) -> list[RecordedFlip]:
    """Examples of one task that only one of two models solved, at most `limit` gained and as many lost."""
    key = (_number(ledger, new), _number(ledger, old), task.number)
    found: list[RecordedFlip] = []
    for was, now, gained in ((_WRONG, _RIGHT, True), (_RIGHT, _WRONG, False)):
        rows = ledger.rows_of(
            "SELECT (SELECT name FROM examples WHERE id = a.example), a.output, b.output "
            f"{_JOINED} AND {was.format('a')} AND {now.format('b')} ORDER BY a.example LIMIT ?",
            (*key, limit),
        )
        found += [
            RecordedFlip(task.name, name, _text(old_output), _text(new_output), gained)
            for name, old_output, new_output in rows
            if is_text(name)
        ]
    return found


def _text(output: object) -> str | None:
    return output if is_text(output) else None


def _number(ledger: Ledger, model: RecordedModel) -> int:
    return int(ledger.rows_of("SELECT id FROM models WHERE fingerprint = ?", (model.fingerprint,))[0][0])


def _count(ledger: Ledger, model: int, task: RecordedTask) -> int:
    query = "SELECT count(*) FROM outcomes WHERE model = ? AND task = ?"
    return int(ledger.rows_of(query, (model, task.number), apart=True)[0][0])
