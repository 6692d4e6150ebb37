"""Quality at equal budget: `python -m benchmarks.evolve.quality [--seeds 5] [--evaluations 400] [--full]`.

Every arm searches on 200 validation examples of each of four tasks and is told on the test split. Studies go on where
they were stopped, and what the ledger knows is not asked again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import ChainMap
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.evolve.world import World, world
from genepool import progress
from genepool.evolution import run_study
from genepool.evolution.study import Study
from genepool.tasks import Ledger, OutcomeTable, Task, evaluate, load_tasks
from genepool.weights import open_weights

EXAMPLES = 200
TEST = 512
# Student's t at 97.5% for one to nine degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Result:
    """One arm on one seed: means over the tasks, from 0 to 1.

    Attributes:
        valid: what it was chosen by.
        test: on the test split.
        evaluations: candidates it took.
        seconds: of evaluating them, as one process.
        diversity: how differently the last candidates answer; None where there were no generations.
        scores: of every example of the test split, by task.
    """

    valid: float
    test: float
    evaluations: int
    seconds: float
    diversity: float | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)


def _study(place: World, **parts: Any) -> Study:
    return Study(
        base=str(place.bed.base),
        skills=[{"name": name, "model": str(path)} for name, path in place.parents.items()],
        tasks={"dir": str(place.bed.tasks), "names": place.tasks, "valid": EXAMPLES, "test": TEST},
        seed=place.seed,
        **parts,
    )


def _searched(place: World, name: str, evaluations: int, **parts: Any) -> Result:
    return _finished(place, name, _study(place, budget={"evaluations": evaluations}, **parts))


def _finished(place: World, name: str, study: Study) -> Result:
    from genepool.evolution.store import StudyStore

    out = place.folder / "studies" / name
    best = run_study(study, out, ledger=place.folder / "ledger.sqlite").best
    with StudyStore(out / "study.sqlite") as store:
        diversity = next((value for value in reversed(store.diversity()) if value is not None), None)
    curse, tested = best["curse"], _asked(place, {"winner": open_weights(out / "winner")}, _tasks(place), "test", TEST)
    found = Result(curse["valid"], curse["test"], best["evaluations"], best["cost"]["seconds"], diversity)
    return replace(found, scores={task: tested.scores("winner", task) for task in tested.tasks})


def _tasks(place: World) -> list[Task]:
    return [task for task in load_tasks(str(place.bed.tasks)) if task.name in place.tasks]


def _asked(place: World, models: Mapping[str, Any], tasks: list[Task], split: str, limit: int | None) -> OutcomeTable:
    with Ledger(place.folder / "ledger.sqlite") as ledger:
        return evaluate(
            list(models.values()), tasks, split=split, ledger=ledger, limit=limit, names=list(models), threads=1,
            keep_outputs=False,
        )  # fmt: skip


def _mean(table: OutcomeTable, name: str) -> float:
    return sum(table.mean(name, task) for task in table.tasks) / len(table.tasks)


def _chosen(place: World, models: Mapping[str, Any], seconds: float = math.nan, held_out: bool = False) -> Result:
    """The best on the examples of the search, or on the validation examples it held out; told on test."""
    tasks, limit = _tasks(place), None if held_out else EXAMPLES
    if held_out:
        tasks = [_with(task, "valid", task.examples("valid")[EXAMPLES:]) for task in tasks]
    valid = _asked(place, models, tasks, "valid", limit)
    best = max(models, key=lambda name: _mean(valid, name))
    test = _asked(place, {best: models[best]}, _tasks(place), "test", TEST)
    scores = {task: test.scores(best, task) for task in test.tasks}
    return Result(_mean(valid, best), _mean(test, best), len(models), seconds, scores=scores)


def _with(task: Task, split: str, examples: Any) -> Task:
    return replace(task, splits=ChainMap({split: list(examples)}, dict(task.splits)))


def _parents(place: World, evaluations: int) -> Result:
    base = open_weights(str(place.bed.base))
    return _chosen(place, {name: open_weights(str(path), base=base) for name, path in place.parents.items()})


def _static(place: World, evaluations: int) -> Result:
    """Averages, task arithmetic, TIES, DARE-TIES and TSV-M over grids of their factors."""
    from genepool.merging import Recipe, plan_merge

    grids: list[tuple[str, dict[str, Any]]] = [("linear", {})]
    grids += [("task_arithmetic", {"lambda": x / 20}) for x in range(2, 13, 2)]
    grids += [("ties", {"lambda": x / 10}) for x in (6, 8, 10, 12, 15, 20)]
    grids += [("dare_ties", {"density": d, "lambda": x}) for d in (0.2, 0.5) for x in (0.8, 1.2, 1.8)]
    grids += [("tsv_m", {"lambda": x}) for x in (0.7, 1.0, 1.4)]
    base = open_weights(str(place.bed.base))
    sources = {"base": base, **{name: open_weights(str(path), base=base) for name, path in place.parents.items()}}
    models = {}
    for method, parameters in grids:
        recipe = Recipe(
            method=method, base=None if method == "linear" else "base", models=list(place.parents),
            parameters=parameters, seed=place.seed,
        )  # fmt: skip
        models[f"{method} {json.dumps(parameters)}"] = plan_merge(recipe, sources).weights()
    return _chosen(place, models)


_DARE = {
    "vary": {
        "kind": "merge_parameters",
        "method": "dare_ties",
        "search": {"weight": {"low": 0.0, "high": 1.0}, "density": {"low": 0.05, "high": 1.0}},
    }
}


def _merging(strategy: str) -> Callable[[World, int], Result]:
    return lambda place, n: _searched(place, strategy, n, strategy=strategy, **_DARE)


def _bred(strategy: str, **options: Any) -> Callable[[World, int], Result]:
    name = "-".join([strategy, *(f"{key}={value}" for key, value in options.items())])
    return lambda place, n: _searched(place, name, n, strategy={"name": strategy, "options": options})


def _adapter(place: World) -> str:
    """The best average of all as a LoRA adapter on the base."""
    from genepool.merging import Recipe, plan_merge
    from genepool.merging.as_lora import write_adapter

    adapter = place.folder / "average-lora"
    if not adapter.is_dir():
        recipe = Recipe(
            method="task_arithmetic", base=str(place.bed.base), models=[str(p) for p in place.parents.values()],
            parameters={"lambda": 0.3}, seed=place.seed,
        )  # fmt: skip
        write_adapter(plan_merge(recipe), adapter, 16)
    return f"{place.bed.base}+{adapter}"


def _essa(place: World, evaluations: int) -> Result:
    """Its singular values searched."""
    study = Study(
        base=str(place.bed.base),
        skills=[{"name": "average", "model": _adapter(place)}],
        strategy="essa",
        tasks={"dir": str(place.bed.tasks), "names": place.tasks, "valid": EXAMPLES, "test": TEST},
        budget={"evaluations": evaluations},
        seed=place.seed,
    )
    return _finished(place, "essa", study)


def _tuned(place: World, evaluations: int) -> Result:
    """All of its numbers tuned by gradient on the examples that ESSA searches on.

    Eight settings of AdamW; which, is chosen on the validation examples that the search leaves.
    """
    from genepool.evolution.breeding import FounderAdapters, Learner
    from genepool.evolution.breeding.learning_settings import Learning

    base = open_weights(str(place.bed.base))
    founders = FounderAdapters(base, {"average": open_weights(_adapter(place), base=base)})
    tasks = [_with(task, "train", task.examples("valid")[:EXAMPLES]) for task in _tasks(place)]
    start = {name: founders.founder("average", name) for name in founders.infos}
    models, began = {}, time.perf_counter()
    for rate in (1e-4, 3e-4, 1e-3, 3e-3):
        for steps in (50, 200):
            settings = Learning(steps=steps, batch=64, rate=rate)
            learner = Learner(founders, tasks, {}, settings, seed=place.seed, threads=1, compute="float32")
            name = f"tuned-{steps}-{rate}"
            models[name] = founders.express(
                learner.teach("average", start), name, f"{learner.digest()} {founders.fingerprint()}"
            )
    return _chosen(place, models, time.perf_counter() - began, held_out=True)


ARMS: dict[str, Callable[[World, int], Result]] = {
    "best parent": _parents,
    "best static merge": _static,
    "random search (DARE-TIES)": _merging("random_search"),
    "evolutionary merging (CMA-ES, DARE-TIES)": _merging("cma_es"),
    "GENOME": _bred("genome"),
    "GENOME+": _bred("genome_plus"),
    "M2N2": _bred("m2n2"),
    "M2N2, plain GA (alpha 0, no attraction)": _bred("m2n2", alpha=0, attraction=False),
    "CycleQD": _bred("cycleqd"),
    "ESSA (on the average as an adapter)": _essa,
    "the same adapter tuned by gradient": _tuned,
}


def measured(arm: str, seed: int, evaluations: int, tiny: bool) -> Result:
    """One arm on one seed; importable, so that processes can share the work."""
    progress.set_quiet(True)
    return ARMS[arm](world(seed, tiny=tiny), evaluations)


def interval(values: list[float]) -> str:
    """Mean of seeds with Student's 95% interval, in percent."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{100 * mean:.1f}"
    half = _T[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def table(results: Mapping[str, list[Result]]) -> str:
    """Markdown: an arm a line."""
    lines = ["| arm | validation | test | against the best static merge | evaluations | s | disagreement at the end |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    static = [one.test for one in results.get("best static merge", [])]
    for arm, found in results.items():
        test = [one.test for one in found]
        against = interval([a - b for a, b in zip(test, static, strict=True)]) if len(static) == len(test) else ""
        seconds = statistics.fmean(one.seconds for one in found)
        took = "" if math.isnan(seconds) else f"{seconds:.0f}"
        spread = [one.diversity for one in found if one.diversity is not None]
        lines.append(
            f"| {arm} | {interval([one.valid for one in found])} | {interval(test)} | {against} | "
            f"{statistics.fmean(one.evaluations for one in found):.0f} | {took} "
            f"| {f'{100 * statistics.fmean(spread):.1f}%' if spread else ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs and prints the table, with every arm's results beside it as JSON in the cache."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evolve.quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--full", action="store_true", help="the full text testbed instead of the tiny one")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    for seed in range(asked.seeds):
        world(seed, tiny=not asked.full)
    results: dict[str, list[Result]] = {arm: [] for arm in asked.only}
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        jobs = {
            (arm, seed): pool.submit(measured, arm, seed, asked.evaluations, not asked.full)
            for seed in range(asked.seeds)
            for arm in asked.only
        }
        for (arm, seed), job in jobs.items():
            results[arm].append(job.result())
            progress.message(f"{arm}, seed {seed}: {results[arm][-1]}")
    print(table(results))


if __name__ == "__main__":
    main()
