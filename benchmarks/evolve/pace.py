"""Candidates a minute and what they cost beside being evaluated: `python -m benchmarks.evolve.pace [--candidates 40]`.

The same DARE-TIES candidates on the tiny text testbed, 200 examples of each of four tasks: by `genepool evolve`; by a
loop in one process that writes each merge, loads it and evaluates it; and by that loop in fresh processes with
mergekit, which is what people have today. Two threads everywhere but in the study, which takes one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.evolve.quality import EXAMPLES
from benchmarks.evolve.world import CACHE, World, world
from benchmarks.measuring import measure, tell
from benchmarks.merge import peer
from genepool import progress
from genepool.evolution.candidates import Candidate
from genepool.evolution.opened_study import OpenedStudy
from genepool.evolution.study import Study
from genepool.seeding import numpy_generator

SEARCH = {"weight": {"low": 0.0, "high": 1.0}, "density": {"low": 0.05, "high": 1.0}}


def _study(place: World, method: str, search: dict[str, Any], evaluations: int) -> Study:
    return Study(
        base=str(place.bed.base),
        skills=[{"name": name, "model": str(path)} for name, path in place.parents.items()],
        vary={"kind": "merge_parameters", "method": method, "search": search},
        strategy="random_search",
        tasks={"dir": str(place.bed.tasks), "names": place.tasks, "valid": EXAMPLES, "test": EXAMPLES},
        budget={"evaluations": evaluations},
        finalists=0,
        seed=place.seed,
    )


@contextmanager
def _timed(into: list[float], clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
    began = clock()
    yield
    into.append(clock() - began)


def applying(place: World, method: str, search: dict[str, Any], count: int) -> tuple[float, float]:
    """CPU seconds to apply a candidate and to evaluate it, medians; both take one thread."""
    from genepool.tasks import LanguageModel, Ledger, evaluate
    from genepool.threads import torch_threads

    study = _study(place, method, search, count)
    apply: list[float] = []
    ask: list[float] = []
    with torch_threads(1), Ledger(":memory:") as ledger:
        opened = OpenedStudy.open(study, resident=("base", *place.parents))
        model = LanguageModel.load(opened.representation.template())
        genes = opened.representation.start.size  # type: ignore[attr-defined]
        for i, x in enumerate(numpy_generator(0, "pace", method).random((count, genes))):
            candidate = Candidate(str(i), 0, i, opened.representation.genome(x), 0)
            with _timed(apply, time.process_time):
                model.assign(opened.representation.source(candidate))
            with _timed(ask, time.process_time):
                evaluate(
                    [model], opened.tasks, split="valid", ledger=ledger, limit=EXAMPLES, threads=1, keep_outputs=False
                )
    return statistics.median(apply[1:]), statistics.median(ask[1:])


def by_study(place: World, count: int, folder: Path) -> float:
    """Seconds a candidate takes in a study, start-up and end of the run left out: the difference of two budgets."""
    times = []
    for n in (count, 2 * count):
        path = folder / f"study-{n}.yaml"
        study = _study(place, "dare_ties", SEARCH, n).model_dump(mode="json", exclude_defaults=True)
        path.write_text(yaml.safe_dump({"study": 1, **study}))
        command = [sys.executable, "-m", "genepool", "evolve", str(path), "--out", str(folder / f"run-{n}"), "-q"]
        times.append(measure([*command, "--ledger", str(folder / f"{n}.sqlite")]).wall)
    return (times[1] - times[0]) / count


def in_one_process(place: World, count: int, folder: Path) -> float:
    """Seconds a candidate takes where each is written, loaded and evaluated, by our own merge in one process."""
    from genepool.merging import plan_merge, run_plan
    from genepool.tasks import Ledger, evaluate, load_tasks

    opened = OpenedStudy.open(_study(place, "dare_ties", SEARCH, count))
    tasks = [task for task in load_tasks(str(place.bed.tasks)) if task.name in place.tasks]
    spent: list[float] = []
    for i, x in enumerate(numpy_generator(0, "pace").random((count, 16))):
        candidate = Candidate(str(i), 0, i, opened.representation.genome(x), 0)
        with _timed(spent), Ledger(folder / "one.sqlite") as ledger:
            run_plan(plan_merge(opened.representation.plan_of(candidate).recipe), folder / "merged", overwrite=True)  # type: ignore[attr-defined]
            evaluate([folder / "merged"], tasks, split="valid", ledger=ledger, limit=EXAMPLES, keep_outputs=False)
    return statistics.median(spent)


def in_fresh_processes(place: World, count: int, folder: Path, mergekit: Path) -> float:
    """Seconds a candidate takes where mergekit writes it and another process evaluates it."""
    spent: list[float] = []
    for x in numpy_generator(0, "pace").random((count, 16)):
        recipe = {
            "merge_method": "dare_ties",
            "base_model": str(place.bed.base),
            "models": [
                {"model": str(path), "parameters": {"weight": float(w), "density": 0.05 + 0.95 * float(d)}}
                for path, w, d in zip(place.parents.values(), x[::2], x[1::2], strict=True)
            ],
            "dtype": "float32",
        }
        (folder / "mergekit.yaml").write_text(yaml.safe_dump(recipe))
        shutil.rmtree(folder / "by-mergekit", ignore_errors=True)
        merge = [str(mergekit), str(folder / "mergekit.yaml"), str(folder / "by-mergekit"), "--quiet"]
        ask = [sys.executable, "-m", "genepool", "evaluate", str(folder / "by-mergekit"), "--tasks"]
        ask += [str(place.bed.tasks), "--split", "valid", "--limit", str(EXAMPLES), "-q"]
        spent.append(measure(merge).wall + measure([*ask, "--ledger", str(folder / "fresh.sqlite")]).wall)
    return statistics.median(spent)


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evolve.pace", description=__doc__)
    parser.add_argument("--candidates", type=int, default=40, help="of the study; the slower loops take a tenth")
    parser.add_argument("--mergekit", type=Path, help="the Python of an environment with mergekit; installed else")
    asked = parser.parse_args()
    progress.set_quiet(True)
    place = world(0, tiny=True)
    command, version = peer.find(asked.mergekit or peer.install(CACHE.parent / "mergekit"))
    few = max(2, asked.candidates // 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tell("genepool evolve")
        ours = by_study(place, asked.candidates, folder)
        tell("merge to disk, load, evaluate, in one process")
        one = in_one_process(place, few, folder)
        tell("mergekit to disk, then evaluate, in fresh processes")
        fresh = in_fresh_processes(place, few, folder, command)
    print(f"mergekit {version}, {os.cpu_count()} cores\n")
    print("| loop | s a candidate | candidates a minute | against genepool evolve |\n|---|--:|--:|--:|")
    for words, seconds in (
        ("genepool evolve, one worker", ours),
        ("write, load, evaluate, in one process", one),
        ("mergekit writes, another process loads and evaluates", fresh),
    ):
        print(f"| {words} | {seconds:.2f} | {60 / seconds:.0f} | {seconds / ours:.1f} |")
    print("\n| recipe | apply, CPU ms | evaluate, CPU ms | apply of evaluate |\n|---|--:|--:|--:|")
    for method, search in (
        ("task_arithmetic", {"weight": {"low": 0.0, "high": 1.0}}),
        ("ties", {"weight": {"low": 0.0, "high": 1.0}, "density": {"low": 0.05, "high": 0.5}}),
        ("dare_ties", SEARCH),
    ):
        apply, ask = applying(place, method, search, 12)
        print(f"| {method} | {1000 * apply:.1f} | {1000 * ask:.0f} | {apply / ask:.1%} |")


if __name__ == "__main__":
    main()
