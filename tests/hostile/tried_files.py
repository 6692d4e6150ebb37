"""What the fuzzer tried, counted from its record into docs/security.json and the table of docs/security.md.

`python -m tests.hostile.fuzzing --table FILE ...` writes both; a test holds the page to the counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.hostile.hostile_files import KINDS

_DOCS = Path(__file__).parents[2] / "docs"
COUNTS, PAGE = _DOCS / "security.json", _DOCS / "security.md"
_BEGIN, _END = "<!-- tried: begin -->\n", "<!-- tried: end -->\n"
_HEAD = (
    "| kind of file | tried | exit 0 | exit 1 | exit 2 | worst s | worst MB over idle | worst MB over the good file "
    "| wrong |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)
_COLUMNS = ("tried", "0", "1", "2", "seconds", "idle", "good", "wrong")
#: The header of a safetensors file, which is read without a command around it.
HEADER = "header"


def counted(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What a record says of each kind: how many ended how, and the worst of each cost. Of equal cases the last counts.

    Args:
        lines: those of the record, in order; see `fuzzing.Tried`.
    """
    last = {(one["kind"], one["seed"]): one for one in lines}
    found: dict[str, dict[str, float]] = {}
    for one in last.values():
        row = found.setdefault(one["kind"], dict.fromkeys(_COLUMNS, 0))
        row["tried"] += 1
        row["wrong"] += bool(one["wrong"])
        if str(one["code"]) in row:
            row[str(one["code"])] += 1
        if one["seconds"] is not None:
            row["seconds"] = max(row["seconds"], round(one["seconds"], 2))
        if one["megabytes"] is not None:
            row["idle"] = max(row["idle"], round(one["megabytes"]))
            row["good"] = max(row["good"], round(one["megabytes"] - one["usual"]))
    return dict(sorted(found.items()))


def table_of(kinds: Mapping[str, Mapping[str, float]]) -> str:
    """The counts as a Markdown table; a kind that was not tried stands there with zeros."""
    names = {HEADER: "safetensors header, alone", **{kind.name: kind.row or kind.name for kind in KINDS}}
    rows: dict[str, dict[str, float]] = {}
    for kind, name in names.items():
        row = rows.setdefault(name, dict.fromkeys(_COLUMNS, 0))
        _add(row, kinds.get(kind, {}))
    files = dict.fromkeys(_COLUMNS, 0.0)
    for name, row in rows.items():
        if name != names[HEADER]:
            _add(files, row)
    lines = [_line(name, row) for name, row in sorted(rows.items(), key=lambda row: row[0].lower())]
    return _HEAD + "".join([*lines, _line("**all but the headers**", files)])


def _add(row: dict[str, float], more: Mapping[str, float]) -> None:
    for key, value in more.items():
        row[key] = max(row[key], value) if key in ("seconds", "idle", "good") else row[key] + value


def _line(name: str, row: Mapping[str, float]) -> str:
    whole = (f"{row[key]:,.0f}" for key in ("tried", "0", "1", "2"))
    worst = (f"{row['seconds']:.2f}", f"{row['idle']:.0f}", f"{row['good']:.0f}", f"{row['wrong']:.0f}")
    return f"| {' | '.join([name, *whole, *worst])} |\n"


def with_table(page: str, kinds: Mapping[str, Mapping[str, float]]) -> str:
    """The page with the table of these counts in its place.

    Raises:
        ValueError: the page does not have exactly one place for it.
    """
    if page.count(_BEGIN) != 1 or page.count(_END) != 1:
        raise ValueError(f"{PAGE} needs {_BEGIN.strip()} and {_END.strip()} once each")
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{table_of(kinds)}{_END}{after}"


def write_table(records: Sequence[Path]) -> None:
    """Counts records, and writes the counts and the table into the documentation."""

    def lines() -> Iterable[dict[str, Any]]:
        for record in records:
            with record.open() as stream:
                yield from map(json.loads, stream)

    kinds = counted(lines())
    COUNTS.write_text(json.dumps(kinds, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(with_table(PAGE.read_text(), kinds))
