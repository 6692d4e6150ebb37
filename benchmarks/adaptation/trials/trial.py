"""What a trial is and what is kept of it: for each seed, numbers by example for every arm in every column.

The four trials are files of their own. Their cells lie in trials.jsonl, which is added to line by line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.adaptation.cells import Marks
from benchmarks.by_arm import whole_lines
from benchmarks.claims.verdict import Contrast, Rule

FILE = Path(__file__).parent / "trials.jsonl"
# Digits of a number that is kept.
_DIGITS = 6


@dataclass(frozen=True)
class TrialCell:
    """One trial with one seed.

    Attributes:
        values: arm, column -> a number for each example; a single one where it is a number of the whole seed.
    """

    values: Mapping[tuple[str, str], Marks]

    def mean(self, arm: str, column: str) -> float:
        """Over the examples."""
        return float(self.values[arm, column].mean())


@dataclass(frozen=True, eq=False)
class Measured(Contrast):
    """Two arms whose examples have numbers instead of marks of right and wrong.

    Attributes:
        differences: first minus second of every example.
    """

    differences: tuple[Marks, ...] = ()

    @property
    def moved(self) -> Sequence[Marks]:
        """See `Contrast.moved`."""
        return self.differences


def between(first: Marks, second: Marks) -> Contrast:
    """Two arms on the same examples, one number each."""
    return Measured(float(first.mean()), float(second.mean()), (), (first - second,))


def number(first: float, second: float = 0.0) -> Contrast:
    """A number of a whole seed less another one: the seeds alone make the interval."""
    return Contrast(first, second, ())


@dataclass(frozen=True)
class TrialClaim:
    """What a trial is asked.

    Attributes:
        name, words, source, remark: as of `StreamClaim`.
        figures: what is compared, by name; the first is the main figure.
        rule: when it holds, by the names of the figures.
        places: digits of its figures behind the point.
    """

    name: str
    words: str
    source: str
    figures: Mapping[str, Callable[[TrialCell], Contrast]]
    rule: Rule
    remark: str = ""
    places: int = 3


@dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        name: of its section and on the command line.
        words: what is done, for the page.
        arms: rows of its table.
        columns: name -> what stands there.
        measured: a seed -> its cell.
        claim: what is asked.
        places: digits behind the point.
        same_examples: whether seeds share examples.
    """

    name: str
    words: str
    arms: Sequence[str]
    columns: Sequence[str]
    measured: Callable[[int], TrialCell]
    claim: TrialClaim
    places: int = 3
    same_examples: bool = False


class TrialCells:
    """Cells of trials in a file.

    Args:
        path: JSON lines; need not exist. A line that was cut off by a kill is forgotten.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self._known: dict[tuple[str, int], TrialCell] = {}
        for line in whole_lines(path):
            row = json.loads(line)
            values = {(arm, column): np.array(one) for arm, columns in row["values"].items()
                      for column, one in columns.items()}  # fmt: skip
            self._known[row["trial"], row["seed"]] = TrialCell(values)

    def __contains__(self, name: tuple[str, int]) -> bool:
        return name in self._known

    def of(self, trial: str) -> dict[int, TrialCell]:
        """The cells of a trial by seed."""
        return {seed: cell for (name, seed), cell in sorted(self._known.items()) if name == trial}

    def add(self, trial: str, seed: int, cell: TrialCell) -> None:
        """Adds a cell to the file."""
        values: dict[str, dict[str, list[float]]] = {}
        for (arm, column), one in cell.values.items():
            values.setdefault(arm, {})[column] = [float(f"{value:.{_DIGITS}g}") for value in np.ravel(one)]
        line = json.dumps({"trial": trial, "seed": seed, "values": values})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        # What is read back is what was written, to the same digit.
        rounded = {(arm, column): np.array(one) for arm, columns in values.items() for column, one in columns.items()}
        self._known[trial, seed] = TrialCell(rounded)
