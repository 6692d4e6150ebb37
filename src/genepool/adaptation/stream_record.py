"""The durable record of a run on a stream: one SQLite file with a row for every example that was issued.

A batch is committed as it is issued, before anything is learned from it; what was learned is added afterwards. A batch
that is predicted again, after a kill, is held against what was issued. Uses `record`; `runner` writes, reports read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genepool.adaptation.series import written
from genepool.adaptation.stream_step import StreamStep, StreamUpdate
from genepool.checked import is_line, is_number, is_text, is_whole
from genepool.errors import InputError
from genepool.record import Record

FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS examples (
    position INTEGER PRIMARY KEY, round INTEGER NOT NULL, batch INTEGER NOT NULL, example TEXT NOT NULL,
    domain TEXT NOT NULL, known INTEGER NOT NULL, answer TEXT, issued TEXT, score REAL, entropy REAL,
    frozen TEXT NOT NULL, frozen_score REAL, frozen_entropy REAL NOT NULL, kept INTEGER, weight REAL);
CREATE INDEX IF NOT EXISTS examples_of_batches ON examples (batch);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY, round INTEGER NOT NULL, commonest REAL NOT NULL, spread REAL NOT NULL,
    kept REAL NOT NULL, broken INTEGER NOT NULL, alarm TEXT NOT NULL, reset TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clean (
    batch INTEGER NOT NULL, place INTEGER NOT NULL, score REAL NOT NULL, frozen_score REAL NOT NULL,
    PRIMARY KEY (batch, place));
CREATE TABLE IF NOT EXISTS domains (
    ended INTEGER NOT NULL, place INTEGER NOT NULL, domain TEXT NOT NULL, score REAL NOT NULL,
    PRIMARY KEY (ended, place));
CREATE TABLE IF NOT EXISTS errors (
    position INTEGER PRIMARY KEY, error REAL, frozen_error REAL NOT NULL, late REAL);
"""
_ISSUED = (
    "position", "round", "batch", "example", "domain", "known", "answer", "issued", "score", "entropy", "frozen",
    "frozen_score", "frozen_entropy",
)  # fmt: skip


@dataclass(frozen=True)
class IssuedRow:
    """An example as it was issued.

    Attributes:
        round: counted from 1.
        batch: counted from 0.
        example, domain: its key, and where it is from.
        known: whether its class is one that the model can know.
        issued, frozen: what the adapted and the frozen model answered; None where a prediction was no number.
        score, frozen_score: whether that was right, 0 or 1; None without a label.
        entropy, frozen_entropy: of the predictions, in nats.
    """

    round: int
    batch: int
    example: str
    domain: str
    known: bool
    issued: str | None
    score: float | None
    entropy: float | None
    frozen: str
    frozen_score: float | None
    frozen_entropy: float


@dataclass(frozen=True)
class SignsRow:
    """What was seen of a batch; see `BatchSigns` and `StreamUpdate`."""

    number: int
    round: int
    commonest: float
    spread: float
    kept: float
    broken: bool
    alarm: str
    reset: str


class StreamRecord(Record):
    """The open record of one run; one writer at a time.

    Raises:
        InputError: the file is something else, damaged, or from a newer version.
    """

    noun, version, schema = "stream", FORMAT, _SCHEMA
    tables = frozenset({"meta", "examples", "batches", "clean", "errors", "domains"})

    def begin(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Records what this run is; what is on record already is given back instead."""
        known: dict[str, Any] | None = self.get("settings", None)
        if known is None:
            with self._transaction():
                self._set("format", FORMAT)
                self._set("settings", settings)
            return settings
        return known

    # ------------------------------------------------------------------ writing

    def issue(self, step: StreamStep) -> None:
        """Makes a batch durable as it is issued; one that is on record must have come to the same.

        Raises:
            InputError: it did not: the machine or a library computes otherwise than when it was issued.
        """
        scores, frozen = step.scores(step.predicted), step.scores(step.frozen)
        rows = [
            (
                step.position + at, step.round, step.number, step.keys[at], step.domains[at], int(step.known[at]),
                step.answers[at], step.predicted[at], scores[at], step.entropies[at], step.frozen[at], frozen[at],
                step.frozen_entropies[at],
            )
            for at in range(len(step.keys))
        ]  # fmt: skip
        columns = ", ".join(_ISSUED)
        known = self._rows(f"SELECT {columns} FROM examples WHERE batch = ? ORDER BY position", (step.number,))
        if known:
            if known != rows:
                raise InputError(
                    f"batch {step.number} comes to other predictions than when it was issued",
                    where=self.path,
                    fix="Resume with the machine and libraries of the first run, or start again with --overwrite",
                )
            return
        with self._transaction():
            marks = ", ".join("?" * len(_ISSUED))
            self._db.executemany(f"INSERT INTO examples ({columns}) VALUES ({marks})", rows)
            if step.asked == "series":
                self._db.executemany("INSERT INTO errors VALUES (?, ?, ?, NULL)", _errors_of(step))

    def learned(self, step: StreamStep, update: StreamUpdate) -> None:
        """Makes durable what became of a batch; the first account of one stands."""
        signals, signs = update.signals, update.signs
        weights = [one if is_number(one) else None for one in signals.weight.tolist()]
        rows = [
            (int(kept), weight, step.position + at)
            for at, (kept, weight) in enumerate(zip(signals.kept.tolist(), weights, strict=True))
        ]
        row = (
            step.number, step.round, signs.commonest, signs.spread, signs.kept, int(signs.broken), update.alarm,
            update.reset,
        )  # fmt: skip
        with self._transaction():
            self._db.executemany("UPDATE examples SET kept = ?, weight = ? WHERE position = ?", rows)
            if signals.late is not None:
                rows_of = signals.late.flatten(1).tolist()
                told = tuple(written(row) if all(map(math.isfinite, row)) else None for row in rows_of)
                errors = step.errors(told)
                late = [(_finite(one), step.position + at) for at, one in enumerate(errors)]
                self._db.executemany("UPDATE errors SET late = ? WHERE position = ?", late)
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO NOTHING", row)

    def looked(self, batch: int, ours: Sequence[float], theirs: Sequence[float]) -> None:
        """Makes a look at the clean set durable; the first one after so many batches stands."""
        rows = [(batch, place, *pair) for place, pair in enumerate(zip(ours, theirs, strict=True))]
        with self._transaction():
            self._db.executemany("INSERT INTO clean VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def looked_at_domains(self, ended: int, scores: Mapping[str, float]) -> None:
        """Makes mean scores of all domains durable, after so many of them were over; the first account stands."""
        rows = [(ended, place, domain, score) for place, (domain, score) in enumerate(scores.items())]
        with self._transaction():
            self._db.executemany("INSERT INTO domains VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)

    # ------------------------------------------------------------------ reading

    def issued(self, only_round: int | None = None) -> list[IssuedRow]:
        """The examples that were issued, in order; of one round, where one is named."""
        columns = "round, batch, example, domain, known, issued, score, entropy, frozen, frozen_score, frozen_entropy"
        only, arguments = ("", ()) if only_round is None else ("WHERE round = ?", (only_round,))
        found = []
        for row in self._rows(f"SELECT {columns} FROM examples {only} ORDER BY position", arguments):
            number, batch, example, domain, known, issued, score, entropy, frozen, frozen_score, frozen_entropy = row
            good = is_whole(number, 1) and is_whole(batch, 0) and is_text(example) and is_line(domain)
            good = good and is_whole(known, 0, 1) and is_text(frozen) and (issued is None or is_text(issued))
            good = good and all(one is None or is_number(one, 0, 1) for one in (score, frozen_score))
            with self._believing("an example"):
                if not (good and (entropy is None or is_number(entropy)) and is_number(frozen_entropy)):
                    raise ValueError(f"{example!r:.40}")
            found.append(
                IssuedRow(
                    number,
                    batch,
                    example,
                    domain,
                    bool(known),
                    issued,
                    score,
                    entropy,
                    frozen,
                    frozen_score,
                    frozen_entropy,
                )
            )
        return found

    def signs(self) -> list[SignsRow]:
        """What was seen of every batch, in order."""
        found = []
        for row in self._rows(
            "SELECT number, round, commonest, spread, kept, broken, alarm, reset FROM batches ORDER BY number"
        ):
            with self._believing("a batch"):
                numbers = is_whole(row[0], 0) and is_whole(row[1], 1) and all(map(is_number, row[2:5]))
                if not (numbers and is_whole(row[5], 0, 1) and is_line(row[6]) and is_line(row[7])):
                    raise ValueError(f"{row[0]!r:.40}")
            number, of, commonest, spread, kept, broken, alarm, reset = row
            found.append(SignsRow(number, of, commonest, spread, kept, bool(broken), alarm, reset))
        return found

    def domains(self) -> dict[int, dict[str, float]]:
        """Mean scores by domain, by how many domains were over."""
        found: dict[int, dict[str, float]] = {}
        for ended, domain, score in self._rows("SELECT ended, domain, score FROM domains ORDER BY ended, place"):
            with self._believing("a look at the domains"):
                if not (is_whole(ended, 0) and is_line(domain) and is_number(score, 0, 1)):
                    raise ValueError(f"{domain!r:.40}")
            found.setdefault(ended, {})[domain] = score
        return found

    def errors(self) -> list[tuple[float | None, float, float | None]]:
        """Mean squared errors along a series, in order: as issued, frozen, and as forecast again after the batch.

        None where a forecast was not a number, or was not made again; empty where the stream is no series.
        """
        found = []
        for error, frozen, late in self._rows("SELECT error, frozen_error, late FROM errors ORDER BY position"):
            with self._believing("an error"):
                if not (is_number(frozen, 0) and all(one is None or is_number(one, 0) for one in (error, late))):
                    raise ValueError(f"{error!r:.40}")
            found.append((error, frozen, late))
        return found

    def clean(self) -> dict[int, list[tuple[float, float]]]:
        """Scores on the clean set, adapted and frozen, by the number of batches before the look."""
        found: dict[int, list[tuple[float, float]]] = {}
        for batch, score, frozen in self._rows("SELECT batch, score, frozen_score FROM clean ORDER BY batch, place"):
            with self._believing("a look at the clean set"):
                if not (is_whole(batch, 0) and is_number(score, 0, 1) and is_number(frozen, 0, 1)):
                    raise ValueError(f"{batch!r:.40}")
            found.setdefault(batch, []).append((score, frozen))
        return found


def _errors_of(step: StreamStep) -> Iterator[tuple[int, float | None, float | None]]:
    """Of each forecast its position, its error and that of the frozen model."""
    pairs = zip(step.errors(step.predicted), step.errors(step.frozen), strict=True)
    for at, (error, frozen) in enumerate(pairs):
        yield step.position + at, _finite(error), _finite(frozen)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
