"""What the ledger holds of a study's models: outcome tables by fingerprint, with no model opened, and fitness.

Nothing is evaluated here: what the ledger lacks is missing. Uses tasks, measure and evolution; `study_outcomes` and the
sections use it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genepool.evolution.opened_study import fitness
from genepool.evolution.study import Study
from genepool.evolution.study_tasks import load_study_tasks
from genepool.measure import Interval
from genepool.measure.intervals import mean_interval, resampled_means
from genepool.tasks import Example, Ledger, OutcomeTable, Task
from genepool.tasks.table import TaskOutcomes


def study_tasks(study: Study, trusted: Collection[str | Path] = ()) -> list[Task]:
    """The tasks of a study, asked as the study asks them.

    Args:
        study: the study.
        trusted: files of tasks that may run code.

    Raises:
        InputError: they are no longer where the study found them.
    """
    tasks = load_study_tasks(study, trusted)
    # Tasks that draw tokens take the study's seed, which is part of how the ledger knows them.
    return [
        Task(task.name, task.splits, task.settings.model_copy(update={"seed": study.seed}))
        if task.settings.temperature > 0
        else task
        for task in tasks
    ]


def recorded(
    ledger: Path, tasks: Sequence[Task], split: str, limit: int | None, models: Mapping[str, str]
) -> OutcomeTable:
    """The models whose outcomes are all in the ledger.

    Args:
        ledger: the file; one that is not there holds nothing.
        tasks, split, limit: the examples, as the study chooses them.
        models: name -> fingerprint.
    """
    examples = {task.name: list(task.examples(split))[:limit] for task in tasks}
    cells: dict[tuple[str, str], TaskOutcomes] = {}
    whole: dict[str, str] = {}
    if tasks and ledger.is_file():
        with Ledger(ledger) as book:
            for model, fingerprint in models.items():
                found = {task.name: _cell(book, fingerprint, task, examples[task.name]) for task in tasks}
                complete = {name: cell for name, cell in found.items() if cell is not None}
                if len(complete) == len(found):
                    cells |= {(model, name): cell for name, cell in complete.items()}
                    whole[model] = fingerprint
    return OutcomeTable(cells, examples, whole, split)


def fitness_value(table: OutcomeTable, model: str, study: Study) -> float:
    """The study's fitness of a model on the outcomes of a table."""
    return fitness({task: table.mean(model, task) for task in table.tasks}, study.tasks.weights, study.objective)


def fitness_interval(table: OutcomeTable, model: str, study: Study) -> Interval:
    """The study's fitness of a model on the outcomes of a table, with a 95% bootstrap interval over examples."""
    return _fitness_and_worst(table, model, study)[0]


def objective_intervals(table: OutcomeTable, model: str, study: Study) -> tuple[Interval, ...]:
    """The study's fitness of a model, its worst task's mean, and its mean on every task, with 95% intervals.

    The worst task is drawn anew in every resample, so its interval knows that another one might have been the worst;
    tasks of weight 0 cannot be it.
    """
    return (*_fitness_and_worst(table, model, study), *(mean_interval(table.scores(model, t)) for t in table.tasks))


def _fitness_and_worst(table: OutcomeTable, model: str, study: Study) -> tuple[Interval, Interval]:
    parts = [table.scores(model, task) for task in table.tasks]
    draws = np.stack([resampled_means(part, place=i) for i, part in enumerate(parts)])
    shares = np.array([study.tasks.weights.get(task, 1.0) for task in table.tasks])
    lowest = draws[shares > 0].min(axis=0)
    share = study.objective.worst
    blended = (1 - share) * (shares @ draws) / shares.sum() + share * lowest
    worst = min(float(part.mean()) for part, weight in zip(parts, shares, strict=True) if weight > 0)
    return _around(fitness_value(table, model, study), blended), _around(worst, lowest)


def _around(value: float, draws: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _cell(book: Ledger, fingerprint: str, task: Task, examples: Sequence[Example]) -> TaskOutcomes | None:
    wanted = [example.key for example in examples]
    known = book.find(fingerprint, task.asking, wanted)
    if not all(key in known for key in wanted):
        return None
    return TaskOutcomes(tuple(known[key] for key in wanted), len(wanted))
