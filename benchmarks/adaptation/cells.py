"""What was measured: one cell for each arm, bed and seed, with the marks of single examples in some rounds.

Tables and claims are computed from these marks. The file is added to line by line, so a run that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.by_arm import whole_lines

FILE = Path(__file__).parent / "cells.jsonl"
Marks = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class StreamCell:
    """One arm on one bed with one seed.

    Attributes:
        domains: name -> its number of examples with labels, in the order of the stream; marks stand in this order.
        frozen: 0 or 1 for each of these examples: whether the frozen model is right.
        rounds: the same of what the arm issued, by round.
        clean: the same on the clean examples after the last round, frozen and adapted; empty where there are none.
        unknown: AUROC of the entropy in the last round, frozen and adapted; None where all classes are known.
        cost: accuracy that augmentations cost the source, in points of 1; None where the adapter makes none.
        kept: mean share of the examples that were learned from.
        alarms, resets: how often the watch raised one, and how often the arm put itself back.
        seconds: of the processor, for predicting a batch and learning from it.
        held: bytes of all tensors that live between two batches.
        said: further numbers by name.
        beside: seconds of the processor in which the frozen model predicts a batch, taken in the same run; None where
            they were not taken.
    """

    domains: Mapping[str, int]
    frozen: Marks
    rounds: Mapping[int, Marks]
    clean: tuple[Marks, ...]
    unknown: tuple[float, float] | None
    cost: float | None
    kept: float
    alarms: int
    resets: int
    seconds: float
    held: int
    said: Mapping[str, float] = field(default_factory=dict)
    beside: float | None = None

    @property
    def last(self) -> int:
        """The number of the last round."""
        return max(self.rounds)

    def part(self, marks: Marks, domain: str = "") -> Marks:
        """Marks of one domain; of all of them where none is named."""
        if not domain:
            return marks
        parts = np.split(marks, np.cumsum(list(self.domains.values()))[:-1])
        return parts[list(self.domains).index(domain)]

    def score(self, number: int) -> float:
        """Accuracy in a round."""
        return float(self.rounds[number].mean())

    def to_dict(self) -> dict[str, Any]:
        """Plain data; marks are written as bits."""
        return {
            "domains": dict(self.domains),
            "frozen": _bits(self.frozen),
            "rounds": {str(number): _bits(marks) for number, marks in self.rounds.items()},
            "clean": [len(self.clean[0]), *map(_bits, self.clean)] if self.clean else [],
            "unknown": self.unknown,
            "cost": self.cost,
            "kept": round(self.kept, 4),
            "alarms": self.alarms,
            "resets": self.resets,
            "seconds": round(self.seconds, 6),
            "held": self.held,
            "said": dict(self.said),
            "beside": None if self.beside is None else round(self.beside, 6),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StreamCell:
        """From `to_dict`."""
        count, clean = sum(data["domains"].values()), data["clean"]
        return cls(
            data["domains"],
            _marks(data["frozen"], count),
            {int(number): _marks(bits, count) for number, bits in data["rounds"].items()},
            tuple(_marks(bits, clean[0]) for bits in clean[1:]),
            None if data["unknown"] is None else (data["unknown"][0], data["unknown"][1]),
            data["cost"],
            data["kept"],
            data["alarms"],
            data["resets"],
            data["seconds"],
            data["held"],
            data["said"],
            data.get("beside"),
        )


def _bits(marks: Marks) -> str:
    """Marks of 0 and 1 as hexadecimal digits, four a digit."""
    return np.packbits(marks.astype(bool)).tobytes().hex()


def _marks(bits: str, count: int) -> Marks:
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), dtype=np.uint8), count=count).astype(np.float64)


#: Arm, bed, seed.
Name = tuple[str, str, int]


class StreamCells:
    """Cells in a file.

    Args:
        path: JSON lines; need not exist. A line that was cut off by a kill is forgotten.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self._known: dict[Name, StreamCell] = {}
        for line in whole_lines(path):
            row = json.loads(line)
            self._known[row["arm"], row["bed"], row["seed"]] = StreamCell.from_json(row)

    def __contains__(self, name: Name) -> bool:
        return name in self._known

    def __getitem__(self, name: Name) -> StreamCell:
        return self._known[name]

    def seeds(self, needs: Sequence[tuple[str, str]]) -> list[int]:
        """The seeds with which every one of some arms was measured on its bed."""
        found = {seed for _, _, seed in self._known}
        return sorted(seed for seed in found if all((arm, bed, seed) in self._known for arm, bed in needs))

    def add(self, name: Name, cell: StreamCell) -> None:
        """Adds a cell to the file."""
        self._known[name] = cell
        arm, bed, seed = name
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"arm": arm, "bed": bed, "seed": seed, **cell.to_dict()}) + "\n")
