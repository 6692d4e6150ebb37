"""Transfer between tasks and models.

What training on one task did to the others, what one model knows and another does not, and how far an estimate of
transfer can be trusted. Computed from outcomes per example; the estimates that `agreement` judges come from
`genepool.skills`, or from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool import seeding
from genepool.errors import InputError, nearest
from genepool.measure.compatibility import FlipMatrix
from genepool.measure.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Difference,
    Interval,
    Scores,
    macro_paired_bootstrap,
    mean_interval,
    paired_bootstrap,
    resampled_means,
    wilson,
)
from genepool.measure.significance import holm

_COUNTS_AT_ONCE = 1 << 20


class Outcomes(Protocol):
    """What transfer is computed from: an `OutcomeTable`, or whatever else has models, tasks and scores."""

    @property
    def models(self) -> Sequence[str]:
        """Names of the models."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the tasks."""

    def scores(self, model: str, task: str) -> Scores:
        """Scores from 0 to 1, shape (examples,), the i-th of the same example for every model."""


# ---------------------------------------------------------------------- task to task


@dataclass(frozen=True)
class TransferMatrix:
    """What every model gained on every task against the base all come from.

    Attributes:
        base: its name.
        models, tasks: rows and columns.
        trained: model -> the task it was trained on, for those trained on one; merges have none.
        cells: (model, task) -> model minus base, paired; positive where training helped.
        p: (model, task) -> the cell's p-value adjusted for all cells (Holm).
        elsewhere: model -> mean difference over the tasks it was not trained on, each counting the same; models for
            which there is no such task are left out.
    """

    base: str
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    trained: Mapping[str, str]
    cells: Mapping[tuple[str, str], Difference]
    p: Mapping[tuple[str, str], float]
    elsewhere: Mapping[str, Difference]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, a row of cells for each model."""
        rows = []
        for model in self.models:
            cells = [
                {"task": task, **self.cells[model, task]._asdict(), "p_adjusted": self.p[model, task]}
                for task in self.tasks
            ]
            other = self.elsewhere.get(model)
            rows.append(
                {
                    "model": model,
                    "trained": self.trained.get(model),
                    "cells": cells,
                    "elsewhere": None if other is None else other._asdict(),
                }
            )
        return {"base": self.base, "tasks": list(self.tasks), "rows": rows}


def transfer_matrix(
    table: Outcomes, base: str, trained: Mapping[str, str] | None = None, *, seed: int = 0
) -> TransferMatrix:
    """The task-to-task transfer matrix.

    Args:
        table: outcomes of the base and of models made from it, each fine-tuned on one task, or merged.
        base: the model all others are held against.
        trained: model -> the task it was trained on.
        seed: of the bootstrap.

    Raises:
        InputError: the base, or a model or task of `trained`, is not in the table, or there is no model but the base.
    """
    own = dict(trained or {})
    for name, kind, known in [
        (base, "model", table.models),
        *((model, "model", table.models) for model in own),
        *((task, "task", table.tasks) for task in own.values()),
    ]:
        if name not in known:
            raise InputError(f"no {kind} '{name}' in this table", fix=nearest(name, known))
    models = tuple(model for model in table.models if model != base)
    if not models or not table.tasks:
        raise InputError(f"there is no model besides '{base}'", fix="Evaluate a model that was made from it")
    before = {task: table.scores(base, task) for task in table.tasks}
    places = [(model, task) for model in models for task in table.tasks]
    cells = {(m, task): paired_bootstrap(table.scores(m, task), before[task], seed=seed) for m, task in places}
    elsewhere = {}
    for model in models:
        others = [task for task in table.tasks if task != own.get(model)]
        if others:
            after = [table.scores(model, task) for task in others]
            elsewhere[model] = macro_paired_bootstrap(after, [before[task] for task in others], seed=seed)
    adjusted = dict(zip(places, holm([cells[place].p for place in places]).tolist(), strict=True))
    return TransferMatrix(base, models, tuple(table.tasks), own, cells, adjusted, elsewhere)


# ---------------------------------------------------------------------- complementary knowledge


@dataclass(frozen=True)
class Complementary:
    """What two models know together, on one task. All are shares of its examples with 95% intervals.

    Roth et al., "Fantastic Gains and Where to Find Them: On the Existence and Prospect of General Knowledge Transfer
    between Any Pretrained Model", 2024.

    Attributes:
        student, teacher: mean scores.
        rho_pos: examples only the teacher solves: what the student could learn from it.
        rho_neg: examples only the student solves: what it could lose.
        union: mean of the better score on every example: what an oracle choosing between the two would get.
        gain: union minus the mean score of the better model, paired.
    """

    student: Interval
    teacher: Interval
    rho_pos: Interval
    rho_neg: Interval
    union: Interval
    gain: Difference

    @property
    def reversed(self) -> Complementary:
        """The same with the roles of the two exchanged."""
        return Complementary(self.teacher, self.student, self.rho_neg, self.rho_pos, self.union, self.gain)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, intervals as {mean, lo, hi}."""
        return {name: getattr(self, name)._asdict() for name in self.__dataclass_fields__}


def complementary(student: Scores, teacher: Scores, *, seed: int = 0) -> Complementary:
    """Complementary knowledge of two models.

    Args:
        student, teacher: scores from 0 to 1 on the same examples, shape (n,) each; above one half counts as solved.
        seed: of the bootstrap.
    """
    if len(student) != len(teacher):
        raise InputError(
            f"got {len(student)} examples, expected {len(teacher)}", fix="Compare models over the same examples"
        )
    mean_student, mean_teacher = mean_interval(student, seed=seed), mean_interval(teacher, seed=seed)
    flips = FlipMatrix.of(student, teacher)
    union = np.maximum(student, teacher)
    better = teacher if mean_teacher.mean > mean_student.mean else student
    return Complementary(
        mean_student,
        mean_teacher,
        wilson(flips.gained, flips.n),
        wilson(flips.lost, flips.n),
        mean_interval(union, seed=seed),
        paired_bootstrap(union, better, seed=seed),
    )


def complementary_knowledge(table: Outcomes, *, seed: int = 0) -> dict[tuple[str, str, str], Complementary]:
    """Complementary knowledge of every two models on every task: (student, teacher, task) -> what they know together.

    Both orders are there, so that a row of the matrix shows what a model could learn from each of the others.

    Raises:
        InputError: there are fewer than two models.
    """
    if len(table.models) < 2:
        raise InputError("there are fewer than two models", fix="Evaluate at least two")
    found = {}
    for task in table.tasks:
        scores = {model: table.scores(model, task) for model in table.models}
        for student, teacher in combinations(table.models, 2):
            both = complementary(scores[student], scores[teacher], seed=seed)
            found[student, teacher, task], found[teacher, student, task] = both, both.reversed
    return found


# ---------------------------------------------------------------------- estimates against truth


@dataclass(frozen=True)
class RankAgreement:
    """How far estimates of transfer say what turned out.

    Attributes:
        sources: how many models or skills were ranked for each target.
        targets: how many rankings there are. Numbers below are means over them.
        tau: Kendall's tau-b of estimate and truth with a 95% bootstrap interval, over the targets where there are
            several, over the sources where there is one. Targets where it does not exist, because all estimates or all
            truths are equal, are left out; None where that is so everywhere.
        regret: true value of the best source less that of the source with the highest estimate.
        hits: k -> how often the best source is among the k highest estimates.
            Sources with equal estimates stand in random order: regret and hits are the expectations over it.
    """

    sources: int
    targets: int
    tau: Interval | None
    regret: float
    hits: Mapping[int, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "sources": self.sources,
            "targets": self.targets,
            "tau": None if self.tau is None else self.tau._asdict(),
            "regret": self.regret,
            "hits": {str(k): share for k, share in self.hits.items()},
        }


def agreement(estimates: ArrayLike, truth: ArrayLike, *, ks: Sequence[int] = (1, 3), seed: int = 0) -> RankAgreement:
    """How well a transferability estimate ranks sources for a target, against what they really gave.

    Args:
        estimates: shape (sources,), or (targets, sources) for several targets; higher is better.
        truth: what each source gave, such as its gain on the target; of the same shape.
        ks: for `hits`. One beyond the number of sources is left out.
        seed: of the bootstrap.

    Raises:
        InputError: the shapes differ, there are no sources, a value is not a number, or a k is below 1.
    """
    guessed, true = (np.atleast_2d(np.asarray(given, dtype=np.float64)) for given in (estimates, truth))
    if guessed.shape != true.shape or guessed.ndim != 2 or not guessed.size:
        raise InputError(
            f"got estimates of shape {guessed.shape}, expected {true.shape}", fix="Give one for each source"
        )
    if not (np.isfinite(guessed).all() and np.isfinite(true).all()):
        raise InputError("an estimate or a truth is not a number", fix="Leave that source out")
    if min(ks, default=1) < 1:
        raise InputError(f"k must be at least 1, got {min(ks)}")
    targets, sources = guessed.shape
    regrets = [float(t.max() - t[g == g.max()].mean()) for g, t in zip(guessed, true, strict=True)]
    hits = {k: float(np.mean([_hit(g, t, k) for g, t in zip(guessed, true, strict=True)])) for k in ks if k <= sources}
    return RankAgreement(sources, targets, _tau_interval(guessed, true, seed), float(np.mean(regrets)), hits)


def kendall_tau_b(first: ArrayLike, second: ArrayLike) -> float | None:
    """Kendall's tau-b: agreeing less disagreeing pairs, over the geometric mean of the pairs each can tell apart.

    Kendall, "The treatment of ties in ranking problems", 1945.

    Returns:
        From -1 to 1; None where one of the two tells no pair apart.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise InputError(f"got values of shapes {one.shape} and {other.shape}, expected one shape")
    found = float(_taus(one, other, np.ones((1, len(one))))[0])
    return None if math.isnan(found) else found


def _taus(first: Scores, second: Scores, counts: Scores) -> Scores:
    """Tau-b with the i-th pair of values counted `counts[:, i]` times, shape (draws,); NaN where it does not exist.

    Copies of one pair are tied in both, and ties are in neither of the sums: whole resamples are quadratic forms.
    """
    signs, others = (np.sign(values[:, None] - values[None, :]) for values in (first, second))

    def pairs(weights: Scores) -> Scores:
        result: Scores = ((counts @ weights) * counts).sum(axis=1)
        return result

    told = np.sqrt(pairs(np.abs(signs)) * pairs(np.abs(others)))
    result: Scores = np.divide(pairs(signs * others), told, out=np.full(len(counts), np.nan), where=told > 0)
    return result


def _tau_interval(guessed: Scores, true: Scores, seed: int) -> Interval | None:
    taus = [kendall_tau_b(g, t) for g, t in zip(guessed, true, strict=True)]
    places = [place for place, tau in enumerate(taus) if tau is not None]
    if not places:
        return None
    known = np.array([taus[place] for place in places], dtype=np.float64)
    if len(known) > 1:
        drawn = resampled_means(known, seed=seed)
    else:
        drawn = _resampled_taus(guessed[places[0]], true[places[0]], seed)
    tail = 100 * (1 - CONFIDENCE) / 2
    # A draw of sources that are all alike has no tau.
    lo, hi = np.nanpercentile(drawn, [tail, 100 - tail])
    return Interval(float(known.mean()), float(lo), float(hi))


def _resampled_taus(guessed: Scores, true: Scores, seed: int) -> Scores:
    generator = seeding.numpy_generator(seed, "tau")
    sources = len(guessed)
    parts = []
    rows = max(1, _COUNTS_AT_ONCE // sources)
    for start in range(0, RESAMPLES, rows):
        counts = generator.multinomial(sources, np.full(sources, 1 / sources), size=min(rows, RESAMPLES - start))
        parts.append(_taus(guessed, true, counts.astype(np.float64)))
    return np.concatenate(parts)


def _hit(estimates: Scores, truth: Scores, k: int) -> float:
    """How likely a best source is among the k highest estimates, equal ones in random order."""
    best: NDArray[np.bool_] = truth == truth.max()
    last = np.sort(estimates)[-k]
    above, tied = estimates > last, estimates == last
    if best[above].any():
        return 1.0
    places, among, right = k - int(above.sum()), int(tied.sum()), int(best[tied].sum())
    return 1 - math.comb(among - right, places) / math.comb(among, places)
