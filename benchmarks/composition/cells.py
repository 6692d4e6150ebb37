"""What was measured: one cell for each arm, testbed, seed and number of examples, kept as marks of single examples.

Tables, curves and claims are computed from these marks. A file of cells is added to line by line, so a run that was
stopped goes on with the next cell.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.by_arm import whole_lines
from benchmarks.claims.worlds import Scores


class Key(NamedTuple):
    """Which cell: the testbed's name, its seed, the arm's name, and how many examples of each task it was given."""

    bed: str
    seed: int
    arm: str
    examples: int


@dataclass(frozen=True)
class Cell:
    """One arm on one testbed with one seed.

    Attributes:
        scores: task -> 0 or 1 for each test example.
        seconds: of the processor, for the fit and the choice of settings, without the answers to the test examples.
        said: what was chosen on validation, or how a fit went, as plain data.
    """

    scores: Scores
    seconds: float
    said: Mapping[str, Any] = field(default_factory=dict)

    def mean(self, leaving_out: str = "") -> float:
        """Mean over tasks, each counting the same.

        Args:
            leaving_out: a task that does not count.
        """
        return float(np.mean([marks.mean() for task, marks in self.scores.items() if task != leaving_out]))


class Cells:
    """Cells in a file.

    Args:
        path: JSON lines; need not exist. A line that was cut off by a kill is forgotten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[Key, Cell] = {}
        for line in whole_lines(path):
            row = json.loads(line)
            key = Key(row["bed"], row["seed"], row["arm"], row["examples"])
            self._known[key] = Cell(_unpacked(row["right"]), row["seconds"], row["said"])

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    def __getitem__(self, key: Key) -> Cell:
        return self._known[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._known)

    def add(self, key: Key, cell: Cell) -> None:
        """Keeps a cell.

        Raises:
            ValueError: a score is neither 0 nor 1.
        """
        row = {**key._asdict(), "seconds": round(cell.seconds, 2), "said": cell.said, "right": _packed(cell.scores)}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        self._known[key] = cell

    def seeds(self, bed: str, arm: str, examples: int) -> list[int]:
        """The seeds with which an arm was measured, in order."""
        return sorted(key.seed for key in self if (key.bed, key.arm, key.examples) == (bed, arm, examples))


def _packed(scores: Scores) -> dict[str, list[Any]]:
    """Task -> number of examples, and their marks as bits in base 64."""
    found = {}
    for task, marks in scores.items():
        if not np.isin(marks, (0.0, 1.0)).all():
            raise ValueError(f"{task}: only right or wrong can be kept")
        bits = np.packbits(marks.astype(bool))
        found[task] = [len(marks), base64.b64encode(bits.tobytes()).decode("ascii")]
    return found


def _unpacked(rows: Mapping[str, list[Any]]) -> Scores:
    return {
        task: np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=count).astype(float)
        for task, (count, bits) in rows.items()
    }
