"""What is compared: the base, the specialists, the best static merge, and compositions of the testbed's adapters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.composition.recipe import Composing
from genepool.composition.run import compose
from genepool.tasks import Ledger, Task, evaluate, load_tasks
from genepool.testbed import Testbed
from genepool.testbed.policies.worlds import LANDERS

#: Training episodes of each task that a composer is given.
EPISODES = 64
#: Weights of the adapters in a sum, of which the validation episodes choose one.
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
# No skill is the newest of these four. Steps and batches are fewer than the defaults, with a larger step size: the same
# for every space.
_PSEC = {"pull": 0.0, "steps": 150, "learning_rate": 1e-3, "batch": 256, "every": 25}

# Landers that save fuel, and that land fast.
_LANDERS = tuple(LANDERS)

Scores = dict[str, list[float]]
Measured = tuple[Scores, dict[str, Any]]


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: in the page.
        measure: (testbed, seed, a folder to work in) -> test scores by task, and what is said beside them.
        skills: of the testbed; poles when None.
    """

    name: str
    measure: Callable[[Testbed, int, Path], Measured]
    skills: tuple[str, ...] | None = None


def asked(model: str | Path, tasks: list[Task], split: str = "test") -> Scores:
    """The score of every episode of some tasks."""
    with Ledger(":memory:") as ledger:
        table = evaluate([str(model)], tasks, split=split, ledger=ledger)
    return {task.name: [round(float(one), 5) for one in table.scores(table.models[0], task.name)] for task in tasks}


def all_tasks(bed: Testbed) -> list[Task]:
    """Every task of the testbed."""
    return load_tasks(bed.tasks)


def _base(bed: Testbed, seed: int, work: Path) -> Measured:
    return asked(bed.base, all_tasks(bed)), {}


def _specialists(bed: Testbed, seed: int, work: Path) -> Measured:
    """Each adapter on the task of its name."""
    found: Scores = {}
    for task in all_tasks(bed):
        if task.name in bed.lora:
            found |= asked(f"{bed.base}+{bed.lora[task.name]}", [task])
    return found, {}


def _static(bed: Testbed, seed: int, work: Path) -> Measured:
    """The sum of the adapters, times the weight that is best on the validation episodes of their tasks."""
    from genepool.merging import Recipe, plan_merge

    def merged(weight: float) -> Any:
        models = [f"{bed.base}+{bed.lora[name]}" for name in bed.lora]
        recipe = Recipe(method="task_arithmetic", base=str(bed.base), models=models, parameters={"lambda": weight})
        return plan_merge(recipe).weights()

    own = [task for task in all_tasks(bed) if task.name in bed.lora]
    means = {}
    for weight in WEIGHTS:
        scores = _of_weights(merged(weight), own, "valid")
        means[weight] = sum(sum(one) / len(one) for one in scores.values()) / len(scores)
    best = max(means, key=lambda weight: means[weight])
    return _of_weights(merged(best), all_tasks(bed), "test"), {"weight": best}


def _of_weights(weights: Any, tasks: list[Task], split: str) -> Scores:
    with Ledger(":memory:") as ledger:
        table = evaluate([weights], tasks, split=split, ledger=ledger)
    return {task.name: [round(float(one), 5) for one in table.scores(table.models[0], task.name)] for task in tasks}


def composed(
    method: str, options: dict[str, Any], *, skills: int | None = None, by_task: bool = False
) -> Callable[[Testbed, int, Path], Measured]:
    """A composition of the adapters.

    Args:
        method: the composer.
        options: of it.
        skills: how many of them, from the first on; all when None.
        by_task: it must be told the task.
    """

    def measure(bed: Testbed, seed: int, work: Path) -> Measured:
        names = list(bed.lora)[:skills]
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        made = compose(
            Composing(
                method=method, base=str(bed.base), skills=tuple(str(bed.lora[name]) for name in names),
                tasks=str(bed.tasks), task=tuple(names), examples=EPISODES, options=options, seed=seed, fold=False,
            ),
            out,
        )  # fmt: skip
        tasks = [task for task in all_tasks(bed) if task.name in names or not by_task]
        found: Scores = {}
        for task in tasks:
            found |= asked(f"{out}#{task.name}" if by_task else out, [task])
        said = {key: made.record[key] for key in ("weights", "best_step") if key in made.record}
        if "tasks" in made.record:
            said["tasks"] = {
                name: {key: one[key] for key in ("modulators", "neurons") if key in one}
                for name, one in made.record["tasks"].items()
            }
        return found, said

    return measure


ARMS = (
    Arm("base", _base),
    Arm("specialists, task known", _specialists),
    Arm("best static sum", _static),
    Arm("psec", composed("psec", _PSEC)),
    Arm("psec, actions mixed", composed("psec", {**_PSEC, "space": "action"})),
    Arm("cotasp after one task", composed("cotasp", {}, skills=1, by_task=True)),
    Arm("cotasp", composed("cotasp", {}, by_task=True)),
    Arm("l2m after one task", composed("l2m", {}, skills=1)),
    Arm("l2m", composed("l2m", {})),
    Arm("psec, constant", composed("psec", {**_PSEC, "constant": True})),
    Arm("psec, outputs mixed", composed("psec", {**_PSEC, "space": "output"})),
    Arm("landers: base", _base, _LANDERS),
    Arm("landers: specialists, task known", _specialists, _LANDERS),
    Arm("landers: best static sum", _static, _LANDERS),
    Arm("landers: psec", composed("psec", _PSEC), _LANDERS),
    Arm("landers: psec, actions mixed", composed("psec", {**_PSEC, "space": "action"}), _LANDERS),
    Arm("landers: psec, constant", composed("psec", {**_PSEC, "constant": True}), _LANDERS),
)
