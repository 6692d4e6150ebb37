"""What a training gained and what it forgot: the base and the result on the same test examples, paired.

The target is what was taught; the others are every task that was not. Nothing is averaged away: the examples that
flipped are listed. Uses tasks and measure.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genepool.measure import Comparison, compare_many
from genepool.tasks import Ledger, OutcomeTable, Task, evaluate
from genepool.tasks.models import Source
from genepool.weights import Weights

BEFORE, AFTER = "before", "after"
# An outcome counts as right from here on where scores are not all 0 or 1.
_RIGHT = 0.5


@dataclass(frozen=True)
class TrainingFlip:
    """A test example that was answered right before and wrong after, or the other way round.

    Attributes:
        task, id, prompt, answer: of the example.
        before, after: what the models wrote; None where they were judged without writing.
        kind: "gained" or "lost".
    """

    task: str
    id: str
    prompt: str
    answer: str
    before: str | None
    after: str | None
    kind: str


@dataclass(frozen=True)
class Gains:
    """Before and after.

    Attributes:
        table: every outcome.
        comparison: task by task, with p-values adjusted over all of them.
        targets: names of the tasks that were taught.
        flips: the examples that flipped.
    """

    table: OutcomeTable
    comparison: Comparison
    targets: tuple[str, ...]
    flips: tuple[TrainingFlip, ...]

    def to_dict(self) -> dict[str, Any]:
        """The part of `train.json` about scores."""
        rows: dict[str, list[Mapping[str, Any]]] = {"target": [], "others": []}
        for one in self.comparison.tasks:
            row = {
                "task": one.task,
                "n": one.n,
                "before": one.old.mean,
                "after": one.new.mean,
                "difference": {
                    "mean": one.difference.difference,
                    "lo": one.difference.lo,
                    "hi": one.difference.hi,
                },
                "p": one.p,
                "verdict": one.verdict,
                "gained": one.compatibility.matrix.gained,
                "lost": one.compatibility.matrix.lost,
            }
            rows["target" if one.task in self.targets else "others"].append(row)
        return {**rows, "flips": [asdict(flip) for flip in self.flips]}


def measure_gains(
    base: Weights | Source,
    tuned: Weights | Source,
    targets: Sequence[Task],
    others: Sequence[Task],
    *,
    by_task: Mapping[str, Weights] | None = None,
    ledger: str | Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Gains:
    """Asks the base and the result the test split of every task.

    Args:
        base: before; what stands for it, where it cannot be asked.
        tuned: after.
        targets: what was taught.
        others: what must not be forgotten.
        by_task: what answers a task that was taught in place of `tuned`, where it has parts for each.
        ledger: where outcomes are kept.
        limit: the first N examples of each task; all when None.
        device: torch's name of the device.
        dtype: what the models compute in.
    """
    with Ledger(ledger) as book:

        def asked(after: Weights | Source, tasks: Sequence[Task]) -> OutcomeTable:
            return evaluate(
                [base, after],
                tasks,
                split="test",
                ledger=book,
                limit=limit,
                names=[BEFORE, AFTER],
                device=device,
                dtype=dtype,
            )

        alone = [task for task in targets if task.name in (by_task or {})]
        rest = [task for task in (*targets, *others) if task not in alone]
        tables = [asked((by_task or {})[task.name], [task]) for task in alone]
        if rest:
            tables.append(asked(tuned, rest))
        table = functools.reduce(OutcomeTable.with_tasks_of, tables)
    return compared_gains(table, targets)


def compared_gains(table: OutcomeTable, targets: Sequence[Task]) -> Gains:
    """Before and after, of outcomes that are known.

    Args:
        table: of the models `BEFORE` and `AFTER`.
        targets: what was taught.
    """
    (comparison,) = compare_many(BEFORE, {AFTER: table.pairs(BEFORE, AFTER)})
    flips = tuple(flip for task in table.tasks for flip in _flips(table, task))
    return Gains(table, comparison, tuple(task.name for task in targets), flips)


def _flips(table: OutcomeTable, task: str) -> list[TrainingFlip]:
    found = []
    outcomes = zip(table.examples(task), table.outcomes(BEFORE, task), table.outcomes(AFTER, task), strict=True)
    for example, before, after in outcomes:
        was, now = before.score >= _RIGHT, after.score >= _RIGHT
        if was != now:
            kind = "gained" if now else "lost"
            found.append(
                TrainingFlip(task, example.id, example.prompt, example.answer, before.output, after.output, kind)
            )
    return found
