"""Whom a method or a strategy is equal to, and by how much: the records that `python -m benchmarks.faithful` measured.

The records of a kind of thing lie beside it, in `faithful.json` of its package. The commands and the reference pages
show them. A test measures them again.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

FILE = "faithful.json"
_REPOSITORY = re.compile(r"^([\w.-]+/[\w.-]+) ([0-9a-f]{7})(?=,)")


@dataclass(frozen=True)
class HeldAgainst:
    """One oracle that something was held against.

    Attributes:
        against: whose code or formula, with its version and the function that was called; the code of a GitHub
            repository as "OWNER/NAME COMMIT, FUNCTION".
        how: what was done with it: "run", "formula" or "read, not run".
        input: on what it was run, in words; empty when it was only read.
        dtype: the type of the oracle's arithmetic; empty when it was only read.
        entries: how many numbers were compared.
        largest: the largest absolute difference; None when nothing was compared.
        note: the setting that makes both the same, or what differs.
    """

    against: str
    how: str
    input: str = ""
    dtype: str = ""
    entries: int = 0
    largest: float | None = None
    note: str = ""

    @property
    def difference(self) -> str:
        """The largest difference, for people."""
        if self.largest is None:
            return ""
        return "none" if self.largest == 0 else f"{self.largest:.1e}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@functools.cache
def recorded(package: str) -> Mapping[str, tuple[HeldAgainst, ...]]:
    """Name -> what it was held against, of everything in a package; empty without records."""
    file = files(package) / FILE
    if not file.is_file():
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    return {name: tuple(HeldAgainst(**row) for row in rows) for name, rows in data.items()}


def table(rows: Sequence[HeldAgainst]) -> list[str]:
    """The rows as lines of a Markdown table."""
    lines = ["| held against | how | on | in | numbers | largest difference | |", "|---|---|---|---|--:|--:|---|"]
    for row in rows:
        numbers = str(row.entries) if row.entries else ""
        against = _REPOSITORY.sub(r"[\1](https://github.com/\1/tree/\2) \2", row.against)
        cells = (against, row.how, row.input, row.dtype, numbers, row.difference, row.note)
        lines.append(f"| {' | '.join(cells)} |")
    return lines
