"""A study seen from elsewhere: what its record says now, without touching it.

Reads `study.sqlite` and `study.yaml` alone, read-only, so that a run is not disturbed and a copy on a read-only disk
will do. The command line's `top` shows it.
"""

from __future__ import annotations

import sqlite3
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genepool.checked import is_number, is_text, is_whole, kind_of, numbers, parsed_json
from genepool.database import distrust, foreign_schema
from genepool.errors import InputError
from genepool.evolution.candidates import HAIR
from genepool.evolution.records import BEST_FILE, STORE_FILE
from genepool.evolution.run import STUDY_FILE
from genepool.evolution.store import TABLES
from genepool.evolution.study import Study
from genepool.evolution.study_file import load_study
from genepool.locking import holder

# The pace of late is that of the last so many candidates.
_LATE = 50


@dataclass(frozen=True)
class TaskStanding:
    """One task as the latest candidates stand: best, mean and standard deviation, from 0 to 1."""

    task: str
    best: float
    mean: float
    spread: float


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        study: what is run.
        running: whether a process has it in hand.
        finished: whether it has its winner.
        done: candidates with a verdict.
        failed, spared, cached: of these, how many failed, left a race or are twins, and needed no asking at all.
        generation: the latest that has a verdict; -1 before there is one.
        best: highest fitness that all examples stand behind; None before there is one.
        best_name: the candidate, "generation.index".
        tasks: of the candidates of the latest generation (the last ten where generations are smaller).
        bests: best fitness so far, by generation.
        diversity: disagreement by generation, where it is known.
        seconds: time spent on the search, interruptions left out, as of the last generation.
        pace: candidates a second of evaluating, of late, by one worker; None before there are any.
    """

    study: Study
    running: bool
    finished: bool
    done: int
    failed: int
    spared: int
    cached: int
    generation: int
    best: float | None
    best_name: str
    tasks: tuple[TaskStanding, ...]
    bests: tuple[float, ...]
    diversity: tuple[float | None, ...]
    seconds: float
    pace: float | None

    @property
    def left(self) -> int | None:
        """Candidates the budget still allows; None when minutes end it."""
        total = self.study.budget.evaluations
        return None if total is None else max(0, total - self.done)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the budget is spent, at the pace of the whole search so far; None when nobody can say."""
        bounds = []
        if self.study.budget.minutes is not None:
            bounds.append(max(0.0, 60 * self.study.budget.minutes - self.seconds))
        if self.left is not None and self.done and self.seconds:
            bounds.append(self.left * self.seconds / self.done)
        return min(bounds, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        budget = self.study.budget
        return {
            "strategy": self.study.strategy.name,
            "budget": {"evaluations": budget.evaluations, "minutes": budget.minutes},
            "running": self.running,
            "finished": self.finished,
            "done": self.done,
            "failed": self.failed,
            "spared": self.spared,
            "cached": self.cached,
            "generation": self.generation,
            "best": None if self.best is None else {"name": self.best_name, "fitness": self.best},
            "tasks": {a.task: {"best": a.best, "mean": a.mean, "spread": a.spread} for a in self.tasks},
            "best_by_generation": list(self.bests),
            "diversity": list(self.diversity),
            "seconds": self.seconds,
            "seconds_left": self.seconds_left,
        }


def take_snapshot(out: str | Path) -> Snapshot:
    """How the study in `out` stands.

    Raises:
        InputError: no such folder, no study in it, or a record that cannot be read.
    """
    out = Path(out)
    if not out.is_dir():
        raise InputError("no such folder", where=out, fix="Name the folder that `genepool evolve --out` writes")
    if not (out / STUDY_FILE).is_file() or not (out / STORE_FILE).is_file():
        raise InputError("holds no study", where=out, fix="Name the folder that `genepool evolve --out` writes")
    study = load_study(out / STUDY_FILE)
    try:
        with _read_only(out / STORE_FILE) as db:
            rows = db.execute(
                "SELECT generation, idx, fitness, valid, note, cached, seconds FROM candidates c "
                "JOIN results r ON c.id = r.id WHERE stage = 0 ORDER BY generation, idx"
            ).fetchall()
            diversity = [row[0] for row in db.execute("SELECT diversity FROM told ORDER BY turn")]
            found = db.execute("SELECT value FROM meta WHERE key = 'seconds'").fetchone()
        rows = [_checked(*row) for row in rows]
        seconds = parsed_json(found[0]) if found else 0.0
        if not is_number(seconds, 0) or not all(one is None or is_number(one) for one in diversity):
            raise ValueError("times or diversities are not numbers")
    except (sqlite3.Error, ValueError) as error:
        raise InputError(
            f"cannot be read as a study ({error})", where=out / STORE_FILE, fix="Wait a moment, or check the disk"
        ) from error
    return _snapshot(study, rows, diversity, float(seconds), out)


def _checked(
    generation: object, index: object, fitness: object, valid: object, note: object, cached: object, seconds: object
) -> tuple[int, int, float | None, dict[str, float], str, bool, float]:
    """A candidate out of the record, which may be a stranger's.

    Raises:
        ValueError: a column does not hold what belongs there.
    """
    if not is_whole(generation, 0) or not is_whole(index, 0):
        raise ValueError(f"candidate {generation!r:.40}.{index!r:.40}")
    name = f"candidate {generation}.{index}"
    if not (fitness is None or is_number(fitness, -HAIR, 1 + HAIR)) or not is_number(seconds, 0):
        raise ValueError(f"{name} has a fitness of {fitness!r:.40} after {seconds!r:.40} s")
    if not is_text(note):
        raise ValueError(f"got {kind_of(note)}, expected the note of {name}")
    return generation, index, fitness, numbers(parsed_json(valid), -HAIR, 1 + HAIR), note, bool(cached), seconds


def _snapshot(study: Study, rows: list[Any], diversity: list[Any], seconds: float, out: Path) -> Snapshot:
    best: float | None = None
    best_name, bests = "", dict[int, float]()
    for generation, index, fitness, _, note, _, _ in rows:
        if fitness is not None and not note and (best is None or fitness > best):
            best, best_name = fitness, f"{generation}.{index}"
        if best is not None:
            bests[generation] = best
    last = rows[-1][0] if rows else -1
    late = [row for row in rows if row[0] == last]
    late = late if len(late) >= 4 else rows[-10:]
    valid = [row[3] for row in late if row[2] is not None]
    tasks = [task for task in valid[0] if all(task in one for one in valid)] if valid else []
    took = [row[6] for row in rows[-_LATE:] if row[6] > 0]
    return Snapshot(
        study=study,
        running=holder(out) is not None,
        finished=(out / BEST_FILE).is_file(),
        done=len(rows),
        failed=sum(row[2] is None for row in rows),
        spared=sum(bool(row[4]) for row in rows),
        cached=sum(bool(row[5]) and not row[4] for row in rows),
        generation=last,
        best=best,
        best_name=best_name,
        tasks=tuple(_standing(task, [one[task] for one in valid]) for task in tasks),
        bests=tuple(bests.values()),
        diversity=tuple(diversity),
        seconds=seconds,
        pace=1 / statistics.fmean(took) if took else None,
    )


def _standing(task: str, means: list[float]) -> TaskStanding:
    return TaskStanding(task, max(means), float(np.mean(means)), float(np.std(means)))


class _read_only:
    """A connection that can change nothing, also where the disk is read-only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        # Without a log beside it nobody has the file open; a connection that knows so makes no log of its own.
        idle = not self._path.with_name(f"{self._path.name}-wal").exists()
        mode = "immutable=1" if idle else "mode=ro"
        self._db = sqlite3.connect(f"{self._path.resolve().as_uri()}?{mode}", uri=True, timeout=5)
        distrust(self._db)
        if foreign := foreign_schema(self._db, TABLES):
            self._db.close()
            raise sqlite3.DatabaseError(foreign)
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.close()
