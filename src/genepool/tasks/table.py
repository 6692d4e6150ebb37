"""The table of outcomes: models x tasks x examples. Every average, interval and comparison is computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.errors import InputError, nearest
from genepool.tasks.example import Example
from genepool.tasks.ledger import Outcome
from genepool.tasks.pairs import Pairs

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TaskOutcomes:
    """One model on one task.

    Attributes:
        outcomes: one per example of the task, in the task's order.
        cached: how many of them needed no asking: known before, or the same in content as one just asked.
    """

    outcomes: tuple[Outcome, ...]
    cached: int


class OutcomeTable:
    """What `evaluate` returns.

    Attributes:
        models: names, in the order given; made unique where two models have one name.
        tasks: names, in the order given.
        fingerprints: model name -> fingerprint.
        split: the split the examples are from.
    """

    def __init__(
        self,
        cells: Mapping[tuple[str, str], TaskOutcomes],
        examples: Mapping[str, Sequence[Example]],
        fingerprints: Mapping[str, str],
        split: str,
    ) -> None:
        self._cells, self._examples = dict(cells), dict(examples)
        self.models = list(fingerprints)
        self.tasks = list(examples)
        self.fingerprints = dict(fingerprints)
        self.split = split

    def examples(self, task: str) -> Sequence[Example]:
        """The examples of one task."""
        if task not in self._examples:
            raise InputError(f"no task '{task}' in this table", fix=nearest(task, self._examples))
        return self._examples[task]

    def outcomes(self, model: str, task: str) -> tuple[Outcome, ...]:
        """One outcome per example."""
        return self._cell(model, task).outcomes

    def scores(self, model: str, task: str) -> np.ndarray:
        """Scores from 0 to 1, shape (examples,), aligned with `examples(task)`."""
        import numpy as np

        return np.array([outcome.score for outcome in self.outcomes(model, task)], dtype=np.float64)

    def outputs(self, model: str, task: str) -> list[str | None]:
        """What the model wrote, per example; None where it was judged without writing."""
        return [outcome.output for outcome in self.outcomes(model, task)]

    def mean(self, model: str, task: str) -> float:
        """Mean score of one model on one task."""
        return float(self.scores(model, task).mean())

    def cached(self, model: str, task: str) -> int:
        """How many of the examples were known before."""
        return self._cell(model, task).cached

    def pairs(self, old: str, new: str) -> list[Pairs]:
        """Two models' outcomes beside each other, task by task."""
        import numpy as np

        found = []
        for task in self.tasks:
            answers = list(zip(self.outputs(old, task), self.outputs(new, task), strict=True))
            known = all(one is not None and other is not None for one, other in answers)
            other = np.array([one != other for one, other in answers]) if known else None
            found.append(Pairs(task, self.scores(old, task), self.scores(new, task), other))
        return found

    @property
    def evaluated(self) -> int:
        """How many examples were computed now, over all models and tasks."""
        return sum(len(cell.outcomes) - cell.cached for cell in self._cells.values())

    def joined(self, other: OutcomeTable) -> OutcomeTable:
        """Both tables' models over the same examples.

        Raises:
            InputError: the tables are not over the same tasks and examples.
        """
        same = self.tasks == other.tasks and all(
            [e.key for e in self.examples(task)] == [e.key for e in other.examples(task)] for task in self.tasks
        )
        if not same or self.split != other.split:
            raise InputError("the tables hold different examples", fix="Evaluate the models on the same tasks")
        for model in set(self.fingerprints) & set(other.fingerprints):
            if self.fingerprints[model] != other.fingerprints[model]:
                raise InputError(f"both tables have a model '{model}', and they differ", fix="Give them other names")
        return OutcomeTable(
            {**self._cells, **other._cells}, self._examples, {**self.fingerprints, **other.fingerprints}, self.split
        )

    def with_tasks_of(self, other: OutcomeTable) -> OutcomeTable:
        """The same models over the tasks of both tables; fingerprints are this table's.

        Raises:
            InputError: the tables have other models, or share a task.
        """
        if self.models != other.models or self.split != other.split or set(self.tasks) & set(other.tasks):
            raise InputError("the tables are not of the same models over other tasks", fix="Evaluate them again")
        examples = {**self._examples, **other._examples}
        return OutcomeTable({**self._cells, **other._cells}, examples, self.fingerprints, self.split)

    def _cell(self, model: str, task: str) -> TaskOutcomes:
        if model not in self.fingerprints:
            raise InputError(f"no model '{model}' in this table", fix=nearest(model, self.fingerprints))
        self.examples(task)
        return self._cells[model, task]
