"""The durable record of a training: one SQLite file with every step, every example of every step, every validation.

A step is committed with the losses of its examples and a hash of what was trained, so that a step taken again (after a
kill, or by `genepool verify-run`) is held against what it was. Uses sqlite3; `run` writes, reports read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.checked import is_digest, is_number, is_text, is_whole, parsed_json
from genepool.errors import InputError
from genepool.record import Record
from genepool.training.made_examples import MadeExample, Round

if TYPE_CHECKING:
    import torch

FORMAT = 1
#: What an objective may say of an example beside its loss; columns of `examples`, null where it does not.
NUMBERS = ("reward", "margin", "length", "kl", "demonstration")
TABLES = frozenset({"meta", "steps", "examples", "validations", "rounds", "made"})
#: Where in `meta` the scores stand by which a sampler chooses single examples.
SCORES = "scores"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER PRIMARY KEY, loss REAL NOT NULL, norm REAL NOT NULL, rate REAL NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS examples (
    step INTEGER NOT NULL, place INTEGER NOT NULL, task TEXT NOT NULL, example TEXT NOT NULL, loss REAL NOT NULL,
    kept INTEGER NOT NULL, reward REAL, margin REAL, length REAL, kl REAL, demonstration REAL,
    PRIMARY KEY (step, place));
CREATE TABLE IF NOT EXISTS validations (step INTEGER PRIMARY KEY, loss REAL NOT NULL, score REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY, step INTEGER NOT NULL, told TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS made (
    round INTEGER NOT NULL, place INTEGER NOT NULL, task TEXT NOT NULL, example TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (round, place));
"""


@dataclass(frozen=True)
class StepRow:
    """One step as it is on record.

    Attributes:
        step: counted from 1.
        loss: the mean over the tokens of its answers, before the step.
        norm: of the gradient, before it was clipped.
        rate: the learning rate.
        digest: SHA-256, hex, of what is trained, after the step.
    """

    step: int
    loss: float
    norm: float
    rate: float
    digest: str


@dataclass(frozen=True)
class ExampleRow:
    """An example of a step, or a sample of one.

    Attributes:
        task: its name.
        example: its key.
        loss: the mean over its targets, or of its pair.
        kept: whether it was learned from.
        numbers: what else is known, by the names in `NUMBERS`: the reward; for pairs that of the chosen answer and by
            how much it is above that of the rejected one (margin); for labelled answers 0 for an accepted and -1 for a
            rejected one (reward); tokens of the answer (length); the divergence from the model as it began, in nats per
            token (kl); 1 for a right answer that is learned instead of samples, 0 for a sample beside such
            (demonstration).
    """

    task: str
    example: str
    loss: float
    kept: bool = True
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """A look at the validation examples after a step: mean loss, and the share answered right."""

    step: int
    loss: float
    score: float


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, hex, over the sorted names and the bytes of tensors."""
    from genepool.weights.tensor_info import tensor_bytes

    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + b"\x1f")
        total.update(tensor_bytes(tensors[name].detach().cpu().contiguous()))
    return total.hexdigest()


class Journal(Record):
    """The open record of one training; one writer at a time.

    Args:
        path: the SQLite file; created when missing.

    Raises:
        InputError: the file is something else, damaged, or from a newer version.
    """

    noun, version, schema, tables = "training", FORMAT, _SCHEMA, TABLES

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # Records of the first version had fewer columns.
        known = {row[1] for row in self._rows("PRAGMA table_info(examples)")}
        if missing := [name for name in NUMBERS if name not in known]:
            with self._transaction():
                for name in missing:
                    self._db.execute(f"ALTER TABLE examples ADD COLUMN {name} REAL")

    # ------------------------------------------------------------------ what the run is

    def begin(self, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Records what this training is; what is on record already is given back instead."""
        known: dict[str, Any] | None = self.get("settings", None)
        if known is not None and known != settings and not self.steps():
            # It ended before its first step, by something that was wrong and has been mended since.
            with self._transaction():
                self._db.execute("DELETE FROM validations")
                self._db.execute("DELETE FROM rounds")
                self._db.execute("DELETE FROM made")
                self._db.execute("DELETE FROM meta WHERE key = ?", (SCORES,))
            known = None
        if known is None:
            with self._transaction():
                self._set("format", FORMAT)
                self._set("settings", settings)
        return known

    # ------------------------------------------------------------------ steps

    def took(self, row: StepRow, examples: Sequence[ExampleRow]) -> None:
        """Makes a step durable; one that is on record must have come to the same bits.

        Raises:
            InputError: it did not: the machine or a library computes otherwise than when the step was taken.
        """
        if (known := self.step(row.step)) is not None:
            if known.digest != row.digest:
                raise InputError(
                    f"step {row.step} has other bits than when it was first taken",
                    where=self.path,
                    fix="Resume with the machine and libraries of the first run, or start again with --overwrite",
                )
            return
        with self._transaction():
            self._db.execute(
                "INSERT INTO steps VALUES (?, ?, ?, ?, ?)", (row.step, row.loss, row.norm, row.rate, row.digest)
            )
            self._db.executemany(
                f"INSERT INTO examples (step, place, task, example, loss, kept, {', '.join(NUMBERS)}) "
                f"VALUES ({', '.join('?' * (6 + len(NUMBERS)))})",
                [
                    (row.step, place, one.task, one.example, one.loss, int(one.kept), *map(one.numbers.get, NUMBERS))
                    for place, one in enumerate(examples)
                ],
            )

    def step(self, number: int) -> StepRow | None:
        """A step on record, None where there is none."""
        return next(iter(self._steps("WHERE step = ?", (number,))), None)

    def steps(self) -> list[StepRow]:
        """Every step on record, in order."""
        return self._steps("ORDER BY step", ())

    def _steps(self, only: str, arguments: tuple[int, ...]) -> list[StepRow]:
        found = []
        for step, loss, norm, rate, digest in self._rows(
            f"SELECT step, loss, norm, rate, digest FROM steps {only}", arguments
        ):
            with self._believing("a step"):
                if not (is_whole(step, 1) and all(map(is_number, (loss, norm, rate))) and is_digest(digest)):
                    raise ValueError(f"{step!r:.40}")
                found.append(StepRow(step, loss, norm, rate, digest))
        return found

    def means(self, step: int | None = None) -> dict[int, dict[str, float]]:
        """By step: the mean over its examples of each number that an objective said, and the share that was kept.

        Steps of objectives that say none are left out.

        Args:
            step: only this one.
        """
        columns = ", ".join(f"avg({name})" for name in (*NUMBERS, "kept"))
        found: dict[int, dict[str, float]] = {}
        only, arguments = ("", ()) if step is None else ("WHERE step = ?", (step,))
        query = f"SELECT step, {columns} FROM examples {only} GROUP BY step ORDER BY step"
        for step, *values in self._rows(query, arguments):
            with self._believing("a number of an example"):
                said = {name: value for name, value in zip(NUMBERS, values, strict=False) if value is not None}
                if not (is_whole(step, 1) and all(map(is_number, (*said.values(), values[-1])))):
                    raise ValueError(f"{step!r:.40}")
                if said:
                    found[step] = {**said, "kept": values[-1]}
        return found

    def samples(self, group: int) -> dict[str, int]:
        """What became of the samples.

        Args:
            group: samples of each prompt that are on record.

        Returns:
            How many samples there were (drawn), how many were learned from, and for how many the reward failed; of how
            many prompts (groups) all samples were rewarded alike, which says nothing (equal_groups); and where there
            are any, how many right answers were learned instead of samples (demonstrations).
        """
        only = "FROM examples WHERE demonstration IS NOT 1"
        ((drawn, kept, failed),) = self._rows(f"SELECT count(*), coalesce(sum(kept), 0), sum(reward IS NULL) {only}")
        groups = f"SELECT min(reward) AS least, max(reward) AS most {only} GROUP BY step, place / ?"
        ((prompts, equal),) = self._rows(f"SELECT count(*), sum(least = most) FROM ({groups})", (group,))
        ((taught,),) = self._rows("SELECT count(*) FROM examples WHERE demonstration = 1")
        told = {
            "drawn": drawn,
            "learned_from": kept,
            "failed": failed or 0,
            "groups": prompts,
            "equal_groups": equal or 0,
            **({"demonstrations": taught} if taught else {}),
        }
        with self._believing("a number of an example"):
            if not all(is_whole(one, 0) for one in told.values()):
                raise ValueError(f"{kept!r:.40}")
        return told

    def generated(self, iterations: int = 1) -> int:
        """Tokens of all samples of all steps; for objectives whose examples are samples.

        Right answers that were learned beside them were not generated.

        Args:
            iterations: steps that share the same samples, which were generated once.
        """
        only = "demonstration IS NOT 1 AND (step - 1) % ? = 0"
        ((total,),) = self._rows(f"SELECT coalesce(sum(length), 0) FROM examples WHERE {only}", (iterations,))
        with self._believing("a length of an example"):
            if not is_number(total, 0):
                raise ValueError(f"{total!r:.40}")
        return int(total)

    def evidence(self, last: int) -> Iterator[tuple[int, list[ExampleRow]]]:
        """The examples of every step up to one, by step, in order.

        Args:
            last: the last step, counted from 1.
        """
        columns = f"step, task, example, loss, kept, {', '.join(NUMBERS)}"
        rows = self._rows(f"SELECT {columns} FROM examples WHERE step <= ? ORDER BY step, place", (last,))
        for step, group in groupby(rows, key=lambda row: row[0]):
            found = []
            with self._believing("an example"):
                for _, task, example, loss, kept, *numbers in group:
                    said = {name: one for name, one in zip(NUMBERS, numbers, strict=True) if one is not None}
                    if not (is_text(task) and is_text(example) and all(map(is_number, (loss, *said.values())))):
                        raise ValueError(f"step {step!r:.40}")
                    found.append(ExampleRow(task, example, loss, bool(kept), said))
            yield step, found

    def examples(self) -> set[tuple[str, str]]:
        """The examples of all steps: of each, the name of its task and its key."""
        found = set(self._rows("SELECT DISTINCT task, example FROM examples"))
        with self._believing("an example"):
            if not all(is_text(task) and is_text(key) for task, key in found):
                raise ValueError("its task or its key is no text")
        return found

    def drawn(self) -> dict[str, int]:
        """How many examples, or samples, of each task there were in all steps."""
        found: dict[str, int] = {}
        for task, count in self._rows("SELECT task, count(*) FROM examples GROUP BY task ORDER BY task"):
            with self._believing("the name of a task"):
                if not is_text(task):
                    raise ValueError(f"{task!r:.40}")
                found[task] = count
        return found

    def shares(self) -> dict[str, dict[int, float]]:
        """By task: its share of the examples, or samples, of every step."""
        found: dict[str, dict[int, float]] = {}
        whole: dict[int, int] = {}
        rows = self._rows("SELECT step, task, count(*) FROM examples GROUP BY step, task ORDER BY step, task")
        for step, task, count in rows:
            with self._believing("an example"):
                if not (is_text(task) and is_whole(step, 1)):
                    raise ValueError(f"{task!r:.40}")
                found.setdefault(task, {})[step] = count
                whole[step] = whole.get(step, 0) + count
        return {
            task: {step: counts.get(step, 0) / total for step, total in whole.items()} for task, counts in found.items()
        }

    def scores(self, count: int) -> list[float] | None:
        """The scores by which a sampler chooses single examples; None where there are none.

        Args:
            count: training examples.

        Raises:
            InputError: they are not that many numbers.
        """
        found: list[float] | None = self.get(SCORES, None)
        if found is not None:
            with self._believing("the scores of the examples"):
                if not (isinstance(found, list) and len(found) == count and all(map(is_number, found))):
                    raise ValueError(f"expected {count} numbers")
        return found

    # ------------------------------------------------------------------ examples that were made

    def put_round(self, found: Round, step: int) -> None:
        """Makes a round of made examples durable, whole or not at all.

        Args:
            found: the round.
            step: the first one after it, counted from 1.
        """
        with self._transaction():
            told = json.dumps(found.told, ensure_ascii=False, allow_nan=False)
            self._db.execute("INSERT INTO rounds VALUES (?, ?, ?)", (found.number, step, told))
            self._db.executemany(
                "INSERT INTO made VALUES (?, ?, ?, ?, ?)",
                [
                    (found.number, place, one.task, one.example.key, json.dumps(one.to_dict(), ensure_ascii=False))
                    for place, one in enumerate(found.examples)
                ],
            )

    def round(self, number: int) -> Round | None:
        """A round of made examples, counted from 0; None where it is not on record."""
        return next((one for one in self._rounds("WHERE round = ?", (number,))), None)

    def rounds(self) -> list[Round]:
        """Every round of made examples, in order."""
        return list(self._rounds("ORDER BY round", ()))

    def _rounds(self, only: str, arguments: tuple[int, ...]) -> Iterator[Round]:
        for number, text in self._rows(f"SELECT round, told FROM rounds {only}", arguments):
            with self._believing("a round of made examples"):
                told = parsed_json(text)
                if not (is_whole(number, 0) and isinstance(told, dict)):
                    raise ValueError(f"{number!r:.40}")
                found = []
                query = "SELECT task, example, content FROM made WHERE round = ? ORDER BY place"
                for task, key, content in self._rows(query, (number,)):
                    one = MadeExample.from_dict(task, parsed_json(content))
                    if not is_text(task) or one.example.key != key:
                        raise ValueError(f"{key!r:.40}")
                    found.append(one)
            yield Round(number, tuple(found), told)

    # ------------------------------------------------------------------ validations

    def validated(self, found: Validation) -> None:
        """Makes a validation durable; the first one of a step stands."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO validations VALUES (?, ?, ?) ON CONFLICT (step) DO NOTHING",
                (found.step, found.loss, found.score),
            )

    def validations(self) -> list[Validation]:
        """Every validation, in the order of the steps."""
        found = []
        for step, loss, score in self._rows("SELECT step, loss, score FROM validations ORDER BY step", ()):
            with self._believing("a validation"):
                if not (is_whole(step, 0) and is_number(loss) and is_number(score, 0, 1)):
                    raise ValueError(f"{step!r:.40}")
                found.append(Validation(step, loss, score))
        return found
