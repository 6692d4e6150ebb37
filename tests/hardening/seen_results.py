"""What can be seen of a command's results: every file by its bytes, databases by their rows, and what may differ.

Two runs must leave the same. The exceptions stand in `SAYS_WHEN`: the places where a result says when it was made or
what it cost.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path

# A file's bytes; the rows of a database, and of a log that grows; None for a folder.
Content = bytes | frozenset[object] | None
# Content by path.
Seen = Mapping[str, Content]

# (name of the file, what of it is not compared)
SAYS_WHEN = (
    ("best.json", rb'"cost": \{[^}]*\}'),
    ("history.jsonl", rb'"seconds": [\d.e-]+, "cached": (true|false)'),
    ("README.md", rb"\d+ s of evaluations \(\d+ s of processor time\), \d+ examples computed"),
    ("report.html", rb'(?s)<section id="cost">.*?</section>'),
)
# Everything but the numbers of rows, times and costs.
_ROWS = {
    "genepool.sqlite": (
        "SELECT m.fingerprint, m.name, t.name, t.asking, e.key, e.name, o.score, o.output, o.detail FROM outcomes o "
        "JOIN models m ON m.id = o.model JOIN tasks t ON t.id = o.task JOIN examples e ON e.id = o.example",
    ),
    "catalogue.sqlite": (
        "SELECT digest, name, form, base_fingerprint, base_name, bytes, tensors, description, licence, lineage, "
        "training, scores, tags, error FROM skills",
        "SELECT * FROM parents",
        "SELECT * FROM sketches",
        "SELECT * FROM words",
    ),
    "run.sqlite": (
        "SELECT * FROM meta",
        "SELECT * FROM steps",
        "SELECT * FROM examples",
        "SELECT * FROM validations",
        # Of examples that are made.
        "SELECT * FROM rounds",
        "SELECT * FROM made",
        # Of tasks that are learned in order.
        "SELECT * FROM stages",
        "SELECT * FROM outcomes",
    ),
    "stream.sqlite": (
        "SELECT * FROM meta",
        "SELECT * FROM batches",
        "SELECT * FROM examples",
        "SELECT * FROM clean",
        "SELECT * FROM domains",
        "SELECT position, error, frozen_error FROM errors",
        # Known once the truth has come, which may be after the batch of which it is.
        "SELECT position, late FROM errors WHERE late IS NOT NULL",
    ),
    "study.sqlite": (
        "SELECT key, value FROM meta WHERE key <> 'seconds'",
        "SELECT * FROM candidates",
        "SELECT id, stage, fitness, valid, scores, error, fingerprint, behaviour, note, unchanged FROM results",
        "SELECT * FROM told",
    ),
}
_GROWS = ("history.jsonl",)
# Finished evaluations stay, also those of a command that was refused in the end.
_LEDGER = "genepool.sqlite"


def look(folder: Path) -> Seen:
    """Everything in a folder but partial files, locks, and what SQLite has beside a database."""
    found: dict[str, Content] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not is_passing(name) and not name.endswith(("-wal", "-shm", "-journal")):
            found[name] = None if path.is_dir() else _content(path)
    return found


def is_passing(name: str) -> bool:
    """Whether a path is one that no finished command leaves: a partial file or a lock, or in such a folder."""
    return any(part.endswith((".partial", ".lock")) for part in Path(name).parts)


def passing(folder: Path, allowed: Sequence[str]) -> list[str]:
    """The partial files and locks in a folder, but for those that match the patterns."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    return [name for name in names if is_passing(name) and not any(fnmatch(name, pattern) for pattern in allowed)]


def torn(now: Seen, whole: Sequence[Seen], parts: Sequence[str], more: Sequence[Seen] = ()) -> list[str]:
    """What of `now` is in none of the states in `whole`, while a command has not finished.

    A file or folder must be as in one of them. In the folders named in `parts` this holds for each file by itself, and
    only for those that all of the states have. Rows that all of the states have must be there, and none that are in
    none of them nor in those of `more`.
    """
    found = []
    for name in sorted(set(now).union(*whole)):
        contents = [one.get(name) for one in whole]
        if any(isinstance(content, frozenset) for content in (now.get(name), *contents)):
            found += _torn_rows(name, now, whole, more)
        elif (unit := Path(name).parts[0]) in parts:
            if all(name in one for one in whole) and now.get(name, b"nothing") not in contents:
                found.append(f"{name}: {'neither the old nor the new' if name in now else 'missing'}")
        else:
            files, legal = _under(now, unit), [_under(one, unit) for one in whole]
            # What none of them has may come and go while the work is done.
            if any(legal) and files not in legal:
                found.append(f"{unit}: {'neither the old nor the new' if files else 'missing'}")
    return list(dict.fromkeys(found))


def _torn_rows(name: str, now: Seen, whole: Sequence[Seen], more: Sequence[Seen]) -> list[str]:
    rows = _rows(now.get(name))
    wanted = frozenset.intersection(*(_rows(one.get(name)) for one in whole))
    legal = frozenset().union(*(_rows(one.get(name)) for one in (*whole, *more)))
    found = {"lost": wanted - rows, "too many": rows - legal}
    return [
        f"{name}: {len(those)} rows {what}, such as {min(map(repr, those))[:200]}"
        for what, those in found.items()
        if those
    ]


def different(now: Seen, then: Seen, allowed: Sequence[str] = (), more: Sequence[Seen] = ()) -> list[str]:
    """How `now` differs from what it should be.

    Files that match the patterns in `allowed` may be there too, and in the ledger rows of the states in `more`.
    """
    found = []
    for name in sorted({*now, *then}):
        here, there = now.get(name), then.get(name)
        if name == _LEDGER and more:
            found += _torn_rows(name, now, [then], more)
        elif name not in now:
            found.append(f"{name}: missing")
        elif name not in then:
            found += [] if any(fnmatch(name, one) for one in allowed) else [f"{name}: should not be there"]
        elif here != there:
            found.append(f"{name}: {_difference(here, there)}")
    return found


def _difference(now: Content, then: Content) -> str:
    if isinstance(now, frozenset) and isinstance(then, frozenset):
        lost, more = sorted(map(repr, then - now)), sorted(map(repr, now - then))
        return f"{len(lost)} rows missing {lost[:1]}, {len(more)} rows too many {more[:1]}"
    if isinstance(now, bytes) and isinstance(then, bytes):
        first = next((i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b), min(len(now), len(then)))
        around = slice(max(0, first - 40), first + 40)
        return f"differs from byte {first} on: {now[around]!r}, expected {then[around]!r}"
    return "a file where a folder should be, or the other way round"


def _under(seen: Seen, unit: str) -> dict[str, Content]:
    """A file, or a folder's files, rows left out."""
    names = [name for name in seen if name == unit or name.startswith(f"{unit}/")]
    return {name: seen[name] for name in names if not isinstance(seen[name], frozenset)}


def _rows(content: Content) -> frozenset[object]:
    return content if isinstance(content, frozenset) else frozenset()


def _content(path: Path) -> Content:
    if path.name in _ROWS:
        return _database(path)
    data = path.read_bytes()
    for name, pattern in SAYS_WHEN:
        if name == path.name:
            data = re.sub(pattern, b"", data)
    return frozenset(data.splitlines()) if path.name in _GROWS else data


def _database(path: Path) -> frozenset[object]:
    """The rows as the next command would find them; from a copy, so that looking changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for beside in path.parent.glob(f"{path.name}*"):
            if not beside.name.endswith("-shm"):
                shutil.copy(beside, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            # Killed before it had all its tables, a database has no rows yet.
            if not {"outcomes", "skills", "results", "steps", "batches"} & there:
                return frozenset()
            asked = [query for query in _ROWS[path.name] if re.findall(r"FROM (\w+)", query)[0] in there]
            return frozenset((query, row) for query in asked for row in connection.execute(query))
