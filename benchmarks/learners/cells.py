"""What was measured: one cell for each arm, order and seed, with the marks of single test examples after every task.

Tables and claims are computed from these marks. The file is added to line by line, so a run that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.by_arm import whole_lines

FILE = Path(__file__).parent / "cells.jsonl"


@dataclass(frozen=True)
class SequenceCell:
    """One arm with one order and one seed.

    Attributes:
        tasks: in the order in which they were learned.
        marks: after each stage, the base being the first, task -> 0 or 1 for each test example.
        memory: bytes that are kept in the end.
        seconds: of the processor, for learning and asking.
    """

    tasks: tuple[str, ...]
    marks: tuple[dict[str, np.ndarray], ...]
    memory: int
    seconds: float

    def score(self, stage: int, task: str) -> float:
        """Mean mark of a task after a stage."""
        return float(self.marks[stage][task].mean())

    @property
    def in_order(self) -> bool:
        """Whether the tasks were learned one after the other."""
        return len(self.marks) == len(self.tasks) + 1

    @property
    def average(self) -> float:
        """Mean score of the learned tasks in the end (ACC)."""
        return float(np.mean([self.score(-1, task) for task in self.tasks]))

    @property
    def backward(self) -> float:
        """Backward transfer (BWT); only where the tasks were learned in order."""
        kept = [self.score(-1, task) - self.score(at, task) for at, task in enumerate(self.tasks[:-1], 1)]
        return float(np.mean(kept))

    @property
    def learned(self) -> float:
        """Mean score of the tasks right after each was learned; in the end, where they were learned together."""
        stages = range(1, len(self.marks)) if self.in_order else [-1] * len(self.tasks)
        return float(np.mean([self.score(stage, task) for stage, task in zip(stages, self.tasks, strict=True)]))


Name = tuple[str, str, int]


class SequenceCells:
    """Cells in a file.

    Args:
        path: JSON lines; need not exist. A line that was cut off by a kill is forgotten.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self._known: dict[Name, SequenceCell] = {}
        for line in whole_lines(path):
            row = json.loads(line)
            marks = tuple(
                {task: np.array([float(mark) for mark in right]) for task, right in stage.items()}
                for stage in row["marks"]
            )
            cell = SequenceCell(tuple(row["tasks"]), marks, row["memory"], row["seconds"])
            self._known[row["arm"], row["order"], row["seed"]] = cell

    def __contains__(self, name: Name) -> bool:
        return name in self._known

    def __getitem__(self, name: Name) -> SequenceCell:
        return self._known[name]

    def seeds(self, arms: Iterable[str], orders: Iterable[str]) -> list[int]:
        """The seeds of which every one of some arms was measured in every one of some orders."""
        wanted = [(arm, order) for arm in arms for order in orders]
        found = {seed for _, _, seed in self._known}
        return sorted(seed for seed in found if all((arm, order, seed) in self._known for arm, order in wanted))

    def add(self, name: Name, cell: SequenceCell) -> None:
        """Adds a cell to the file."""
        self._known[name] = cell
        arm, order, seed = name
        row = {
            "arm": arm,
            "order": order,
            "seed": seed,
            "tasks": list(cell.tasks),
            "memory": cell.memory,
            "seconds": round(cell.seconds, 2),
            "marks": [
                {task: "".join("1" if mark else "0" for mark in marks) for task, marks in stage.items()}
                for stage in cell.marks
            ],
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
