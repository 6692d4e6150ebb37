"""A model-free study: evaluators, a small space, and a driver that tests kill in the middle of things.

Run as a script it is one sitting of a run: `evolve_fakes.py DIR STRATEGY BUDGET WORKERS [SECONDS]`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genepool import progress, staging
from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.loop import Finalist, Search
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import make_strategy
from genepool.evolution.study import SearchBudget
from genepool.evolution.workers import Evaluate, InProcess, ProcessPool, Workers

if os.environ.get("FAKE_CTRL_C") and multiprocessing.current_process().name == "genepool-worker":
    # What Ctrl-C does to a worker that is still importing.
    os.kill(os.getpid(), signal.SIGINT)


@dataclass(frozen=True)
class Line:
    """A space of `d` genes named g0, g1, ..., each the coordinate itself."""

    d: int

    def genome(self, x: np.ndarray) -> dict[str, float]:
        return {f"g{i}": float(value) for i, value in enumerate(x)}


def fitness_of(candidate: Candidate) -> float:
    """Steps like an accuracy's, best at 0.7 everywhere."""
    distance = sum((value - 0.7) ** 2 for value in candidate.genome.values())
    return float(np.floor(64 * np.exp(-4 * distance)) / 64)


def sphere() -> Evaluate:
    return lambda candidate: Verdict(fitness_of(candidate), {"t": fitness_of(candidate)}, examples=1)


def noisy() -> Evaluate:
    """Flatters every candidate of the search by a chance of its own; finalists get what they deserve."""

    def evaluate(candidate: Candidate) -> Verdict:
        luck = 0 if candidate.final else int(candidate.id[:4], 16) / 2**16
        return Verdict((fitness_of(candidate) + luck) / 2 if luck else fitness_of(candidate))

    return evaluate


@dataclass
class Logged:
    """An evaluator that behaves like the real one: outcomes are durable before it returns, and found again.

    `log` gets a line when a computation begins, so that a test sees what was computed more than once.
    """

    folder: Path
    seconds: float

    def __call__(self, candidate: Candidate) -> Verdict:
        outcome = self.folder / "outcomes" / f"{candidate.id}{'-final' if candidate.final else ''}"
        if outcome.exists():
            return Verdict(float(outcome.read_text()), cached=True)
        log(self.folder, f"begin {outcome.name}")
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            sum(range(200))
        staging.write_text(outcome, repr(fitness_of(candidate)))
        log(self.folder, f"end {outcome.name}")
        return Verdict(fitness_of(candidate), examples=1)


def logged(folder: Path, seconds: float) -> Evaluate:
    return Logged(folder, seconds)


def log(folder: Path, line: str) -> None:
    handle = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def dying(folder: Path, index: int, times: int) -> Evaluate:
    """Kills its own process at candidate `index` of generation 0, the first `times` times."""

    def evaluate(candidate: Candidate) -> Verdict:
        if (candidate.generation, candidate.index) == (0, index):
            log(folder, "death")
            if (folder / "log.txt").read_text().count("death") <= times:
                os.kill(os.getpid(), signal.SIGKILL)
        return Verdict(fitness_of(candidate))

    return evaluate


def failing(modulus: int) -> Evaluate:
    """Raises for every candidate whose index is a multiple of `modulus`."""

    def evaluate(candidate: Candidate) -> Verdict:
        if candidate.index % modulus == 0:
            raise RuntimeError(f"no answer\nfor {candidate.index}")
        return Verdict(fitness_of(candidate))

    return evaluate


def stillborn() -> Evaluate:
    os._exit(7)


def misbuilt() -> Evaluate:
    raise ValueError("no such model")


def sitting(
    folder: Path, strategy: str, budget: SearchBudget, workers: Workers, store: StudyStore, finalists: int = 0
) -> list[Finalist]:
    """One sitting of a run, from whatever is on record."""
    d = 4
    store.begin({"strategy": strategy, "d": d}, {"numpy": np.__version__})
    search = Search(
        store,
        make_strategy(strategy, np.full(d, 0.5), seed=5),
        strategy,
        Line(d),
        workers,
        budget=budget,
        seed=0,
        history=folder / "history.jsonl",
        finalists=finalists,
    )
    return search.run()


def history(folder: Path) -> list[dict[str, Any]]:
    """The history without what depends on the clock and on interruptions."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "cached")} for line in lines]


def main(folder: Path, strategy: str, budget: int, count: int, seconds: float) -> None:
    progress.set_quiet(True)
    factory = partial(logged, folder, seconds)
    with StudyStore(folder / "study.sqlite") as store:
        workers: Workers = (
            InProcess(factory, store) if count == 1 else ProcessPool(factory, folder / "study.sqlite", count)
        )
        final = sitting(folder, strategy, SearchBudget(evaluations=budget), workers, store, finalists=3)
    staging.write_text(
        folder / "finalists.json", json.dumps([[f.candidate.id, f.candidate.genome, f.judged.fitness] for f in final])
    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
        float(sys.argv[5]) if len(sys.argv) > 5 else 0.0,
    )
