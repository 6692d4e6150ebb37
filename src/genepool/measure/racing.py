"""Racing: many candidates answer the same examples in the same order; a test drops those that cannot be the best.

What is guarded is the candidate that would be best on all examples: it drops out with probability `risk` at most,
however often the race is looked at. For two candidates let D be the differences of their scores, drawn from N examples
without replacement, in random order. Were the first at least as good over all N, the next difference would have a mean
of at least m = -(sum of those seen) / (N - seen), so a stake that pays 1 - f (D - m) / (1 - m) each time, f from 0 to
1, is a fair or losing bet; capital that reaches (k - 1) / risk is as unlikely as risk / (k - 1) (Ville 1939). Bets of
several sizes f are placed side by side. After Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables
by betting", section 5 (sampling without replacement).

`Race` is given scores and says which candidates go on; searches use it. `race_models` evaluates models with it, through
`tasks.evaluate` and the ledger, so that no answer is computed twice; `genepool evaluate --race` uses that.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.errors import InputError
from genepool.tasks import Example, Ledger, OutcomeTable, Task, evaluate, open_model, unique_names
from genepool.tasks.models import Named

RISK = 0.05
# Looks at the scores, each at twice as many examples as the one before: a model is loaded anew for every one.
LOOKS = 6
_FEWEST = 8
# Bets of these sizes: small ones find small differences late, large ones large differences at once.
_STAKES = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9])


class Race:
    """A race of `count` candidates over `n` examples.

    Args:
        count: candidates.
        n: examples there are in all. They must come in an order that does not depend on how well anyone does, such as
            a shuffle by a seed.
        risk: the probability at most with which the candidate that would be best on all examples drops out.

    Attributes:
        running: candidates that are still in, by number.
        seen: examples told so far.
    """

    def __init__(self, count: int, n: int, *, risk: float = RISK) -> None:
        if count < 1 or n < 1:
            raise InputError(
                f"a race needs candidates and examples, got {count} and {n}", fix="Give at least one of each"
            )
        if not 0 < risk < 1:
            raise InputError(f"must lie between 0 and 1, got {risk}", where="risk", fix="Give another probability")
        self.running: list[int] = list(range(count))
        self.seen = 0
        self._n, self._count = n, count
        # Capital of the bet "row is behind column", of each size, in logarithms; and the sums of differences so far.
        self._capital = np.zeros((count, count, len(_STAKES)))
        self._sums = np.zeros((count, count))
        self._limit = math.log(max(count - 1, 1) / risk)

    def tell(self, scores: NDArray[np.float64]) -> list[int]:
        """Takes the scores of the next examples and says who drops out.

        Args:
            scores: from 0 to 1, shape (running, examples), in the order of `running`.

        Returns:
            The candidates that drop out now, by number. The one ahead of all so far never does.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 2 or len(values) != len(self.running):
            raise InputError(
                f"got scores of shape {list(values.shape)}, expected ({len(self.running)}, examples)",
                fix="Give one row for each candidate",
            )
        if self.seen + values.shape[1] > self._n:
            raise InputError(
                f"got scores of more than the {self._n} examples of the race", fix="Give the number of all examples"
            )
        if not ((values >= 0) & (values <= 1)).all():
            raise InputError("a score is not from 0 to 1", fix="Check the metric of the task")
        place = np.ix_(self.running, self.running)
        capital, sums = self._capital[place], self._sums[place]
        for column in values.T:
            differences = column[:, None] - column[None, :]
            # The least mean that the rest can have if the row were at least as good as the column over all.
            least = -sums / (self._n - self.seen)
            # Where even winning every example that is left would not be enough, no bet is needed.
            lost = least > 1 + 1e-12
            room = np.maximum(1 - np.minimum(least, 1), 1e-12)
            paid = np.minimum((differences - np.minimum(least, 1)) / room, 1.0)
            capital = capital + np.log1p(-_STAKES * paid[..., None])
            capital[lost] = math.inf
            sums = sums + differences
            self.seen += 1
        self._capital[place], self._sums[place] = capital, sums
        behind = _log_mean(capital) >= self._limit
        np.fill_diagonal(behind, False)
        leader = int(np.argmax(sums.sum(1)))
        gone = [number for i, number in enumerate(self.running) if i != leader and behind[i].any()]
        self.running = [number for number in self.running if number not in gone]
        return gone


def _log_mean(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logs.max(-1)
    with np.errstate(invalid="ignore"):
        means = top + np.log(np.exp(logs - top[..., None]).mean(-1))
    result: NDArray[np.float64] = np.where(np.isinf(top), top, means)
    return result


def race_order(keys: Sequence[str], seed: int = 0) -> list[int]:
    """A shuffled order of examples that depends on their keys and the seed alone, for races."""
    from genepool import seeding

    drawn = {key: seeding.derive(seed, "race", key) for key in keys}
    return sorted(range(len(keys)), key=lambda i: (drawn[keys[i]], i))


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
class RaceResult:
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
) -> RaceResult:
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
        InputError: no models or no tasks are named, or a model or task cannot be used.
    """
    if not models or not tasks:
        raise InputError("no models or no tasks are named", fix="Name models and tasks")
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
    return RaceResult(table, tuple(dropped), asked + table.evaluated, spared, risk)


def _looks(rounds: int) -> list[int]:
    sizes = {max(min(_FEWEST, rounds), rounds >> shift) for shift in range(LOOKS)}
    return sorted(sizes)


def _with(task: Task, split: str, examples: Sequence[Example]) -> Task:
    """The same task with other examples in one split; it still shows those of the training split."""
    return replace(task, splits=ChainMap({split: examples}, dict(task.splits)))


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    return [examples[i] for i in race_order([example.key for example in examples], seed)]
