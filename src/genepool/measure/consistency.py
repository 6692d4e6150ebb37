"""Consistency: does a model answer the same question alike however it is put?

The same questions are asked in several variations (other templates, other wordings); answers are compared with each
other, whether right or wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genepool.errors import InputError, listed
from genepool.measure.intervals import Difference, Interval, Scores, mean_interval, paired_bootstrap

if TYPE_CHECKING:
    from genepool.tasks import OutcomeTable


@dataclass(frozen=True)
class Consistency:
    """How alike a model answers several variations of the same questions.

    Attributes:
        variations: their names.
        n: questions.
        right: mean score of each variation with its 95% interval.
        spread: the best variation less the worst, paired. The best of several is chosen by its score, so this is
            above zero by chance too.
        robust: share right in every variation; a score by degree counts by the worst.
        any: share right in one variation at least, or the best score.
        alike: share of questions answered alike in all variations; None where an answer is not on record, and so below.
        agreement: how often two variations answer a question alike.
        kappa: agreement beyond that of drawing answers by how often each is given (Fleiss 1971): 1 for always alike, 0
            for no more than by chance. None where one answer is all there is.
    """

    variations: tuple[str, ...]
    n: int
    right: tuple[Interval, ...]
    spread: Difference
    robust: Interval
    any: Interval
    alike: Interval | None
    agreement: Interval | None
    kappa: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = asdict(self)
        for name in ("spread", "robust", "any", "alike", "agreement"):
            value = getattr(self, name)
            found[name] = None if value is None else value._asdict()
        found["right"] = [one._asdict() for one in self.right]
        return found


def consistency(
    scores: Sequence[Scores],
    outputs: Sequence[Sequence[str | None]] | None = None,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Consistency:
    """Consistency over variations.

    Args:
        scores: from 0 to 1, one array of shape (n,) per variation, the i-th of the same question.
        outputs: what was answered, in the same places; compared without white space around and regardless of case.
        names: of the variations; numbered when None.
        seed: of the bootstrap.

    Raises:
        InputError: there are fewer than two variations, no questions, or they differ in number.
    """
    if len(scores) < 2:
        raise InputError("there are fewer than two variations", fix="Ask the same questions in at least two ways")
    table = [np.asarray(one, dtype=np.float64) for one in scores]
    if len({one.shape for one in table}) > 1 or table[0].ndim != 1 or not len(table[0]):
        raise InputError("the variations have different questions", fix="Give the scores of the same questions")
    labels = tuple(names) if names is not None else tuple(str(place + 1) for place in range(len(table)))
    stacked = np.stack(table)
    means = stacked.mean(axis=1)
    spread = paired_bootstrap(table[int(means.argmax())], table[int(means.argmin())], seed=seed)
    alike, agreement, kappa = _answers(outputs, seed) if outputs is not None else (None, None, None)
    return Consistency(
        labels,
        stacked.shape[1],
        tuple(mean_interval(one, seed=seed) for one in table),
        spread,
        mean_interval(stacked.min(axis=0), seed=seed),
        mean_interval(stacked.max(axis=0), seed=seed),
        alike,
        agreement,
        kappa,
    )


def consistency_of(table: OutcomeTable, model: str, *, seed: int = 0) -> Consistency:
    """Consistency over the tasks of a table, each a variation: examples with the same id are the same question.

    Raises:
        InputError: the tasks have no question in common, or there are fewer than two.
    """
    if len(table.tasks) < 2:
        raise InputError("there are fewer than two variations", fix="Name at least two tasks with the same questions")
    places = {task: {example.id: place for place, example in enumerate(table.examples(task))} for task in table.tasks}
    shared = [name for name in places[table.tasks[0]] if all(name in of for of in places.values())]
    if not shared:
        what = f"{listed(table.tasks)} have no example id in common"
        raise InputError(what, fix="Give the same question the same id in every variation")
    scores, outputs = [], []
    for task in table.tasks:
        rows = [places[task][name] for name in shared]
        answers = table.outputs(model, task)
        scores.append(table.scores(model, task)[rows])
        outputs.append([answers[row] for row in rows])
    return consistency(scores, outputs, names=table.tasks, seed=seed)


def _answers(
    outputs: Sequence[Sequence[str | None]], seed: int
) -> tuple[Interval | None, Interval | None, float | None]:
    columns = list(zip(*outputs, strict=True))
    if any(answer is None for column in columns for answer in column):
        return None, None, None
    normal = [[" ".join((answer or "").split()).casefold() for answer in column] for column in columns]
    kinds = {answer: place for place, answer in enumerate(dict.fromkeys(a for column in normal for a in column))}
    raters = len(outputs)
    counts = np.zeros((len(normal), len(kinds)))
    for row, column in enumerate(normal):
        for answer in column:
            counts[row, kinds[answer]] += 1
    pairs = (np.square(counts).sum(axis=1) - raters) / (raters * (raters - 1))
    shares = counts.sum(axis=0) / counts.sum()
    chance = float(np.square(shares).sum())
    kappa = None if chance > 1 - 1e-12 else float((pairs.mean() - chance) / (1 - chance))
    alike = (counts.max(axis=1) == raters).astype(float)
    return mean_interval(alike, seed=seed), mean_interval(pairs, seed=seed), kappa
