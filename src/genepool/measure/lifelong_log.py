"""Logs of learning one task after another: blocks of training and evaluation, read from l2logger's columns.

`lifelong` computes its suite from them.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genepool.bounded import read_text
from genepool.errors import InputError, nearest

BlockKind = Literal["train", "evaluate"]

_KINDS: Mapping[str, BlockKind] = {
    "train": "train",
    "learning": "train",
    "test": "evaluate",
    "evaluation": "evaluate",
    "evaluate": "evaluate",
}
_COLUMNS = ("block_num", "block_type", "task_name", "exp_num")


@dataclass(frozen=True)
class Block:
    """A stretch of training on one task, or one evaluation of it.

    Attributes:
        kind: "train" or "evaluate".
        task: its name.
        scores: one per experience (an episode, a batch, an example), in order, higher being better.
    """

    kind: BlockKind
    task: str
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("train", "evaluate"):
            raise InputError(f"got a block of kind '{self.kind}', expected train or evaluate", where=self.task)
        if not self.scores or not all(map(math.isfinite, self.scores)):
            raise InputError("the block has no scores, or one is not a number", where=self.task, fix="Leave it out")

    @property
    def terminal(self) -> float:
        """Terminal performance: mean of the last tenth of a training block, of all of an evaluation block."""
        start = len(self.scores) * 9 // 10 if self.kind == "train" else 0
        return float(np.mean(self.scores[start:]))


def read_log(path: str | Path, measure: str = "reward") -> list[Block]:
    """The blocks of a log with l2logger's columns: block_num, block_type, task_name, exp_num and a measure.

    Rows of one block, type and task are one `Block`, in the order of their exp_num; several rows of one experience
    count by their mean. Other columns are no matter, but rows whose `exp_status` is not "complete" are left out.

    Args:
        path: .jsonl, .csv, or .tsv as l2logger writes it.
        measure: the column with the score.

    Raises:
        InputError: a column is missing, a block type is unknown, a number is none, blocks go backwards, or there are
            none; file and line are named.
    """
    path = Path(path)
    found: dict[tuple[int, BlockKind, str], dict[int, list[float]]] = {}
    latest = 0
    for line, row in _rows(path):
        where = f"{path}:{line}"
        for column in (*_COLUMNS, measure):
            if row.get(column) in (None, ""):
                raise InputError(f"has no '{column}'", where=where, fix=nearest(column, map(str, row)))
        kind = str(row["block_type"])
        if kind not in _KINDS:
            raise InputError(f"got the block type '{kind}', expected train or test", where=where)
        number, experience = (_whole(row[key], key, where) for key in ("block_num", "exp_num"))
        if number < latest:
            raise InputError(
                f"block {number} comes after block {latest}", where=where, fix="Sort the rows by block_num"
            )
        latest = number
        score = _number(row[measure], measure, where)
        if row.get("exp_status", "complete") == "complete":
            experiences = found.setdefault((number, _KINDS[kind], str(row["task_name"])), {})
            experiences.setdefault(experience, []).append(score)
    if not found:
        raise InputError("the log has no blocks", where=path, fix="Log at least one training or evaluation")
    return [
        Block(kind, task, tuple(float(np.mean(scores)) for _, scores in sorted(experiences.items())))
        for (_, kind, task), experiences in found.items()
    ]


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = read_text(path, fix="Save it as text in UTF-8", encoding="utf-8-sig")
    if path.suffix.lower() != ".jsonl":
        yield from _table_rows(path, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                what = f"this line is not JSON ({error})"
                raise InputError(what, where=f"{path}:{number}", fix="Correct or remove it") from None
            if not isinstance(row, dict):
                raise InputError("is not an object", where=f"{path}:{number}", fix='Write {"block_num": ...}')
            yield number, row


def _table_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                where = f"{path}:{reader.line_num}"
                raise InputError(
                    "has another number of fields than the first line", where=where, fix="Check the quotes"
                )
            yield reader.line_num, row
    except csv.Error as error:
        where = f"{path}:{reader.line_num + 1}"
        raise InputError(f"is not a table ({error})", where=where, fix="Put texts with commas into quotes") from None


def _number(value: Any, column: str, where: str) -> float:
    try:
        found = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(
            f"got {value!r} for {column}, expected a number", where=where, fix="Correct or remove the line"
        )
    return found


def _whole(value: Any, column: str, where: str) -> int:
    found = _number(value, column, where)
    if found < 0 or not found.is_integer():
        raise InputError(
            f"got {value!r} for {column}, expected a whole number of at least 0",
            where=where,
            fix="Number them 0, 1, 2 and so on",
        )
    return int(found)
