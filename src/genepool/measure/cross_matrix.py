"""The cross matrix, models x tasks, and what one model gained and lost against another, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genepool.measure.intervals import (
    Difference,
    Interval,
    macro_interval,
    macro_paired_bootstrap,
    mean_interval,
    paired_bootstrap,
)
from genepool.tasks import Example, OutcomeTable


@dataclass(frozen=True)
class CrossMatrix:
    """Every model on every task, with intervals.

    Attributes:
        models, tasks: the names, in the table's order.
        cells: (model, task) -> mean and 95% interval.
        means: model -> mean over the tasks, each task counting the same, and its interval.
        counts: task -> number of examples.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    cells: dict[tuple[str, str], Interval]
    means: dict[str, Interval]
    counts: dict[str, int]

    @classmethod
    def of(cls, table: OutcomeTable, *, seed: int = 0) -> CrossMatrix:
        """Computed from outcomes."""
        cells = {
            (model, task): mean_interval(table.scores(model, task), seed=seed)
            for model in table.models
            for task in table.tasks
        }
        means = {
            model: macro_interval([table.scores(model, task) for task in table.tasks], seed=seed)
            for model in table.models
        }
        counts = {task: len(table.examples(task)) for task in table.tasks}
        return cls(tuple(table.models), tuple(table.tasks), cells, means, counts)


@dataclass(frozen=True)
class Flip:
    """One example on which two models disagree."""

    example: Example
    old_output: str | None
    new_output: str | None


@dataclass(frozen=True)
class PairedChange:
    """One model against another on one task.

    Attributes:
        task: the task.
        difference: new minus old, paired.
        gained: examples only the new model solves.
        lost: examples only the old model solved (negative flips).
    """

    task: str
    difference: Difference
    gained: tuple[Flip, ...]
    lost: tuple[Flip, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, without the examples."""
        return {
            "task": self.task,
            **self.difference._asdict(),
            "gained": len(self.gained),
            "lost": len(self.lost),
        }


def change(table: OutcomeTable, old: str, new: str, task: str, *, seed: int = 0) -> PairedChange:
    """What `new` gained and lost against `old` on one task. A score above one half counts as solved."""
    before, after = table.scores(old, task), table.scores(new, task)
    was, now = before > 0.5, after > 0.5
    examples = table.examples(task)
    outputs = table.outputs(old, task), table.outputs(new, task)

    def flips(mask: np.ndarray) -> tuple[Flip, ...]:
        return tuple(Flip(examples[i], outputs[0][i], outputs[1][i]) for i in np.flatnonzero(mask).tolist())

    return PairedChange(task, paired_bootstrap(after, before, seed=seed), flips(now & ~was), flips(was & ~now))


def changes(table: OutcomeTable, old: str, new: str, *, seed: int = 0) -> list[PairedChange]:
    """What `new` gained and lost against `old`, task by task."""
    return [change(table, old, new, task, seed=seed) for task in table.tasks]


def mean_difference(
    table: OutcomeTable, new: str, old: str, tasks: Sequence[str] | None = None, *, seed: int = 0
) -> Difference:
    """`new - old` in the mean over some tasks (all when None), each task counting the same."""
    chosen = list(tasks) if tasks is not None else table.tasks
    return macro_paired_bootstrap(
        [table.scores(new, task) for task in chosen], [table.scores(old, task) for task in chosen], seed=seed
    )
