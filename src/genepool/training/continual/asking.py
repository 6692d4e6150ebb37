"""Asks the models that stand after some tasks, one or several, and joins their outcomes. Uses tasks and gains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from genepool.tasks import Ledger, OutcomeTable, Source, Task, evaluate
from genepool.tasks.table import TaskOutcomes
from genepool.training.continual.folder import LearnedTask
from genepool.training.gains import AFTER, BEFORE, Gains, compared_gains
from genepool.training.opened_training import OpenedTraining
from genepool.training.recipe import Training
from genepool.weights import Weights, open_weights

#: What a model is called, the model, and what it is asked.
Asked = tuple[str, Weights | Source, Sequence[Task]]


def models_asked(opened: OpenedTraining, done: Sequence[LearnedTask], whole: Weights | Source | None) -> list[Asked]:
    """Which model is asked which tasks when some are learned, and what it is called.

    Args:
        opened: the recipe, opened.
        done: the tasks so far; without any, the base is asked everything.
        whole: the model that stands after them; None where a task is asked of what belongs to it.
    """
    targets, others = list(opened.targets), list(opened.others)
    if not done:
        return [("the base", opened.base, [*targets, *others])]
    if whole is not None:
        return [(f"after {', '.join(done[-1].tasks)}", whole, [*targets, *others])]
    known = {name: one.trained for one in done for name in one.tasks}
    if done[-1].views:
        known = {name: done[-1].view(number) for number, one in enumerate(done) for name in one.tasks}
    left = [task for task in (*targets, *others) if task.name not in known]
    base: list[Asked] = [("the base", opened.base, left)] if left else []
    experts = [
        (f"expert of {task.name}", open_weights(str(known[task.name]), base=opened.base), [task])
        for task in targets
        if task.name in known
    ]
    return [*base, *experts]


def ask_all(asked: Sequence[Asked], recipe: Training, ledger: str | Path | None, device: str) -> list[OutcomeTable]:
    """The test split of tasks, each asked of its model; what the ledger knows is not asked again.

    Args:
        asked: what a model is called, the model, and its tasks.
        recipe: says how many examples, and what the models compute in.
        ledger: where outcomes are kept.
        device: torch's name of the device.
    """
    with Ledger(ledger) as book:
        return [
            evaluate(
                [model],
                tasks,
                split="test",
                ledger=book,
                limit=recipe.test,
                names=[name],
                device=device,
                dtype=recipe.dtype,
            )
            for name, model, tasks in asked
        ]


def fingerprint_of(tables: Sequence[OutcomeTable]) -> str:
    """The fingerprint of the model of some tables; of several models, a hash of theirs."""
    found = sorted({fingerprint for table in tables for fingerprint in table.fingerprints.values()})
    return found[0] if len(found) == 1 else hashlib.sha256("\x1f".join(found).encode()).hexdigest()


def joined_gains(opened: OpenedTraining, before: Sequence[OutcomeTable], after: Sequence[OutcomeTable]) -> Gains:
    """Before and after, where different models may have been asked different tasks.

    Args:
        opened: the recipe, opened.
        before, after: tables of one model each, which together are over all tasks.
    """
    cells: dict[tuple[str, str], TaskOutcomes] = {}
    for side, tables in ((BEFORE, before), (AFTER, after)):
        for table in tables:
            for model in table.models:
                for task in table.tasks:
                    cells[side, task] = TaskOutcomes(table.outcomes(model, task), table.cached(model, task))
    tasks = [*opened.targets, *opened.others]
    examples = {task.name: task.examples("test")[: opened.recipe.test] for task in tasks}
    prints = {BEFORE: fingerprint_of(before), AFTER: fingerprint_of(after)}
    return compared_gains(OutcomeTable(cells, examples, prints, "test"), opened.targets)
