"""Evaluating many models for the sake of the best: those that are surely behind are not asked to the end.

Asks through `tasks.evaluate`, with the ledger: what one look asked is known to the next. `genepool evaluate --race`
uses it; searches race their candidates through `racing` themselves.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genepool.errors import InputError
from genepool.measure.racing import RISK, Race, race_order
from genepool.tasks import Example, Ledger, OutcomeTable, Task, evaluate, open_model, unique_names
from genepool.tasks.models import Named

# Looks at the scores, each at twice as many examples as the one before: a model is loaded anew for every one.
LOOKS = 6
_FEWEST = 8


@dataclass(frozen=True)
class DroppedModel:
    """A model that left the race.

    Attributes:
        name: what it was called.
        examples: how many of each task it answered.
        mean: its mean over the tasks on these, each task counting the same.
    """

    name: str
    examples: int
    mean: float


@dataclass(frozen=True)
class Raced:
    """How a race went.

    Attributes:
        table: those that stayed, on every example.
        dropped: those that left, the first first.
        asked: examples computed now.
        saved: examples that the race spared.
        risk: how likely, at most, the best is among those that left.
    """

    table: OutcomeTable
    dropped: tuple[DroppedModel, ...]
    asked: int
    saved: int
    risk: float


def race_models(
    models: Sequence[Named],
    tasks: Sequence[Task],
    *,
    split: str = "test",
    ledger: Ledger,
    limit: int | None = None,
    risk: float = RISK,
    seed: int = 0,
    allow_pickle: bool = False,
    **asking: Any,
) -> Raced:
    """Races models over the examples of tasks, in an order shuffled by the seed.

    A round of the race is one example of every task. Where tasks differ in size, the examples that larger ones have
    left when the smallest is through do not race; those who stayed answer them too.

    Args:
        models: what to ask.
        tasks: what to ask them; each counts the same.
        split: which examples.
        ledger: where outcomes come from and go to.
        limit: only the first so many examples of each task.
        risk: the probability at most with which the best over all rounds drops out.
        seed: of the order.
        allow_pickle, asking: further arguments of `evaluate`.

    Raises:
        InputError: there is nothing to race, or a model or task cannot be used.
    """
    if not models or not tasks:
        raise InputError("nothing to race", fix="Name models and tasks")
    opened = [open_model(model, allow_pickle=allow_pickle) for model in models]
    names = unique_names([source.name for source in opened])
    whole = [_with(task, split, list(task.examples(split))[:limit]) for task in tasks]
    shuffled = [_with(task, split, _shuffled(task.splits[split], seed)) for task in whole]
    rounds = min(len(task.splits[split]) for task in whole)
    race = Race(len(models), rounds, risk=risk)
    dropped: list[DroppedModel] = []
    asked = 0
    for size in _looks(rounds):
        running = list(race.running)
        chosen = [opened[i] for i in running], [names[i] for i in running]
        table = evaluate(chosen[0], shuffled, split=split, ledger=ledger, limit=size, names=chosen[1], **asking)
        asked += table.evaluated
        scores = np.mean([[table.scores(name, task.name) for name in chosen[1]] for task in shuffled], axis=0)
        gone = race.tell(scores[:, race.seen :])
        dropped += [DroppedModel(names[i], size, float(scores[running.index(i)].mean())) for i in gone]
        if len(race.running) == 1:
            break
    left = race.running
    table = evaluate(
        [opened[i] for i in left], whole, split=split, ledger=ledger, names=[names[i] for i in left], **asking
    )
    every = sum(len(task.splits[split]) for task in whole)
    spared = sum(every - one.examples * len(whole) for one in dropped)
    return Raced(table, tuple(dropped), asked + table.evaluated, spared, risk)


def _looks(rounds: int) -> list[int]:
    sizes = {max(min(_FEWEST, rounds), rounds >> shift) for shift in range(LOOKS)}
    return sorted(sizes)


def _with(task: Task, split: str, examples: Sequence[Example]) -> Task:
    """The same task with other examples in one split; it still shows those of the training split."""
    return replace(task, splits=ChainMap({split: examples}, dict(task.splits)))


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    return [examples[i] for i in race_order([example.key for example in examples], seed)]
