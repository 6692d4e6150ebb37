"""Time and memory against size: `python -m benchmarks.evolve.scaling [--only searches|studies|ledger]`.

Three tables. Searches alone: what asking for a candidate and telling its worth costs, by population and number of
skills, with made-up scores of 800 examples. Whole studies on the tiny text testbed, 16 examples of each of four tasks,
as processes: seconds a candidate and memory. The ledger: what an example costs at up to a million rows.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.evolve.world import World, world
from benchmarks.measuring import measure, tell
from genepool import progress

POPULATIONS = (10, 100, 1000)
SKILLS = (2, 8, 40)
TASKS = ("add", "copy", "reverse", "sort")
EXAMPLES = 800
#: Strategies with a size to set, and what sets it. The full covariance of `cma_es` is left out, its diagonal is not.
SEARCHES: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "random_search": lambda n: {"population": n},
    "quasi_random": lambda n: {"population": n},
    "cma_es": lambda n: {"population": n, "covariance": "diagonal"},
    "differential_evolution": lambda n: {"population": n},
    "openai_es": lambda n: {"population": n},
    "nsga2": lambda n: {"population": n},
    "lcsc": lambda n: {"population": n},
    "map_elites": lambda n: {"batch": n},
    "genome": lambda n: {"population": n},
    "genome_plus": lambda n: {"population": n},
    "m2n2": lambda n: {"population": n},
    "weight_es": lambda n: {"population": n},
}


# ---------------------------------------------------------------------- searches


def _anonymous() -> float:
    """Anonymous memory of this process, in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024 / 1e6


def search(name: str, population: int, skills: int) -> tuple[float, float]:
    """Milliseconds a candidate, and megabytes that the process grew by at most, once the population is full."""
    from genepool.evolution.strategies import make_breeder, make_strategy, strategy_entry
    from genepool.evolution.strategies.base import Breeder, Evidence

    options = SEARCHES[name](population)
    breeds = issubclass(strategy_entry(name).build, Breeder)
    gc.collect()
    before = most = _anonymous()
    drawn = np.random.default_rng(0)
    strategy: Any
    if breeds:
        strategy = make_breeder(name, [f"skill {i}" for i in range(skills)], TASKS, seed=0, options=options)
    else:
        strategy = make_strategy(name, np.full(2 * skills, 0.5), seed=0, options=options)
    spent, told, began = 0.0, 0, time.perf_counter()
    # Twice the population, so that whatever fills up is full; searches of one child a generation are told of more.
    while told < 2 * population or time.perf_counter() - began < 1:
        since = time.perf_counter()
        asked = strategy.ask()
        spent += time.perf_counter() - since
        scores = (drawn.random((len(asked), EXAMPLES)) < 0.5).astype(float)
        means = scores.reshape(len(asked), len(TASKS), -1).mean(2)
        since = time.perf_counter()
        strategy.tell(asked, means.mean(1), Evidence(TASKS, means, scores))
        spent += time.perf_counter() - since
        told += len(asked)
        most = max(most, _anonymous())
    return 1000 * spent / told, most - before


def _apart(name: str, population: int, skills: int) -> tuple[float, float]:
    """`search` in a process of its own, so that no memory of another is counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        # Imports are no growth.
        pool.apply(search, (name, 10, 2))
        return pool.apply(search, (name, population, skills))


def searches() -> Iterable[str]:
    """Rows: a strategy; cells: ms and MB for each size."""
    sizes = [(population, 8) for population in POPULATIONS] + [(100, skills) for skills in SKILLS if skills != 8]
    yield "| search | " + " | ".join(f"{population} × {skills}" for population, skills in sizes) + " |"
    yield "|---|" + "--:|" * len(sizes)
    for name in SEARCHES:
        tell(name)
        cells = (_apart(name, *size) for size in sizes)
        yield f"| {name} | " + " | ".join(f"{ms:.2f} ms, {mb:.0f} MB" for ms, mb in cells) + " |"


# ---------------------------------------------------------------------- studies


def _parents(place: World, count: int) -> dict[str, Path]:
    """Both specialists of each skill, and mixtures of two of them where more are wanted."""
    from safetensors.numpy import load_file, save_file

    found = dict(list(place.parents.items())[:count])
    drawn = random.Random(0)
    specialists = list(place.parents.values())
    for i in range(len(found), count):
        folder = place.folder / "mixtures" / str(i)
        one, other, share = *drawn.sample(specialists, 2), drawn.random()
        if not (folder / "model.safetensors").is_file():
            shutil.copytree(one, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.safetensors"))
            a, b = (load_file(path / "model.safetensors") for path in (one, other))
            mixed = {name: (share * a[name] + (1 - share) * b[name]).astype(a[name].dtype) for name in a}
            save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
        found[f"mixture-{i}"] = folder
    return found


def _study(place: World, skills: int, evaluations: int, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "study": 1,
        "base": str(place.bed.base),
        "skills": [{"name": name, "model": str(path)} for name, path in _parents(place, skills).items()],
        "tasks": {"dir": str(place.bed.tasks), "names": list(place.tasks), "valid": 16, "test": 16},
        "budget": {"evaluations": evaluations},
        "finalists": 0,
        **changes,
    }


WEIGHTS = {"weight": {"low": 0.0, "high": 1.0}}
STUDIES: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "CMA-ES (diagonal), task arithmetic": lambda n: {
        "vary": {"kind": "merge_parameters", "method": "task_arithmetic", "search": WEIGHTS},
        "strategy": {"name": "cma_es", "options": SEARCHES["cma_es"](n)},
    },
    "CMA-ES (diagonal), TIES": lambda n: {
        "vary": {
            "kind": "merge_parameters",
            "method": "ties",
            "search": {**WEIGHTS, "density": {"low": 0.05, "high": 0.5}},
        },
        "strategy": {"name": "cma_es", "options": SEARCHES["cma_es"](n)},
    },
    "GENOME": lambda n: {"strategy": {"name": "genome", "options": {"population": n}}},
    "M2N2": lambda n: {"strategy": {"name": "m2n2", "options": {"population": n}}},
}


def study(place: World, skills: int, changes: dict[str, Any], population: int, folder: Path) -> tuple[float, float]:
    """Milliseconds a candidate, start-up left out (the difference of two budgets), and GB at most."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    figures = []
    for evaluations in (population, 3 * population):
        path = folder / f"{evaluations}.yaml"
        path.write_text(yaml.safe_dump(_study(place, skills, evaluations, changes)))
        command = [sys.executable, "-m", "genepool", "evolve", str(path), "--out", str(folder / f"run-{evaluations}")]
        figures.append(measure([*command, "-q", "--ledger", str(folder / f"{evaluations}.sqlite")]))
    return 1000 * (figures[1].wall - figures[0].wall) / (2 * population), figures[1].anonymous


def studies() -> Iterable[str]:
    """Rows: a study; cells: ms and GB for each size."""
    place = world(0, tiny=True)
    sizes = [(population, 8) for population in POPULATIONS] + [(100, skills) for skills in SKILLS if skills != 8]
    yield "| study | " + " | ".join(f"{population} × {skills}" for population, skills in sizes) + " |"
    yield "|---|" + "--:|" * len(sizes)
    with tempfile.TemporaryDirectory() as name:
        for words, changes in STUDIES.items():
            cells = []
            for population, skills in sizes:
                tell(f"{words}, population {population}, {skills} skills")
                ms, gb = study(place, skills, changes(population), population, Path(name) / "study")
                cells.append(f"{ms:.0f} ms, {gb:.2f} GB")
            yield f"| {words} | " + " | ".join(cells) + " |"


# ---------------------------------------------------------------------- the ledger


def ledger(sizes: Iterable[int]) -> Iterable[str]:
    """Rows: outcomes in the ledger; cells: microseconds an example."""
    from genepool.tasks import Ledger, Outcome

    def outcomes(drawn: random.Random) -> list[tuple[str, str, Outcome]]:
        # 200 examples of a task, the same for everyone, as in a search.
        return [
            (f"example-{i}-".ljust(64, "0"), str(i), Outcome(float(drawn.random() < 0.7), f"answer {i % 9}"))
            for i in range(200)
        ]

    yield "| outcomes in it | record | find | MB |\n|---|--:|--:|--:|"
    drawn, made = random.Random(0), 0
    with tempfile.TemporaryDirectory() as name, Ledger(Path(name) / "ledger.sqlite") as held:

        def candidate(number: int) -> None:
            for task in TASKS:
                held.record(f"{number:064d}", f"candidate {number}", task, task, outcomes(drawn))

        for size in sizes:
            while (made + 1) * EXAMPLES <= size:
                candidate(made)
                made += 1
            keys = [key for key, _, _ in outcomes(drawn)]
            spent: dict[str, list[float]] = {"record": [], "find": []}
            for _ in range(50):
                marks = [time.perf_counter()]
                candidate(made)
                marks.append(time.perf_counter())
                for task in TASKS:
                    assert len(held.find(f"{drawn.randrange(made):064d}", task, keys)) == len(keys)
                marks.append(time.perf_counter())
                made += 1
                for what, one, other in zip(spent, marks, marks[1:], strict=False):
                    spent[what].append(1e6 * (other - one) / EXAMPLES)
            figures = " | ".join(f"{statistics.median(rows):.1f} µs" for rows in spent.values())
            yield f"| {size:,} | {figures} | {held.path.stat().st_size / 1e6:.0f} |"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evolve.scaling", description=__doc__)
    parser.add_argument("--only", choices=["searches", "studies", "ledger"], help="one of the tables")
    parser.add_argument("--rows", type=int, default=1_000_000, help="outcomes in the largest ledger")
    asked = parser.parse_args()
    progress.set_quiet(True)
    tables: dict[str, Callable[[], Iterable[str]]] = {
        "searches": searches,
        "studies": studies,
        "ledger": lambda: ledger(sorted({*(n for n in (1_000, 100_000) if n < asked.rows), asked.rows})),
    }
    for name, rows in tables.items():
        if asked.only in (None, name):
            for row in rows():
                print(row, flush=True)
            print()


if __name__ == "__main__":
    main()
