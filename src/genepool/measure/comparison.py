"""One model against another, task by task: how much moved, how surely, what broke, and what could not be seen.

Computed from `Pairs`, whether just asked or read from a ledger; `gates` judges it, `report` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np

from genepool.errors import InputError, listed
from genepool.measure.compatibility import Compatibility, FlipMatrix, compatibility
from genepool.measure.intervals import (
    Difference,
    Interval,
    macro_interval,
    macro_paired_bootstrap,
    mean_interval,
    paired_bootstrap,
)
from genepool.measure.significance import ALPHA, detectable_difference, holm, mcnemar
from genepool.tasks.pairs import Pairs

Verdict = Literal["better", "worse", "no clear difference"]


@dataclass(frozen=True)
class TaskComparison:
    """One task.

    Attributes:
        task: the task.
        n: examples both models answered.
        old, new: mean scores with 95% intervals.
        difference: new minus old, paired; its p is that of the bootstrap.
        mcnemar: p-value of the exact test on the flips; None where scores are not all right or wrong.
        p: the one that counts: McNemar's where there is one, else the bootstrap's, adjusted for all tests made in the
            same call (Holm).
        compatibility: what was kept and what broke.
        detectable: the smallest difference that so many examples would show four times in five, given how often the
            two models disagree; infinity where none would be.
        only_old, only_new: examples left out because one model was never asked them.
    """

    task: str
    n: int
    old: Interval
    new: Interval
    difference: Difference
    mcnemar: float | None
    p: float
    compatibility: Compatibility
    detectable: float
    only_old: int = 0
    only_new: int = 0

    @property
    def verdict(self) -> Verdict:
        """What can be said, with all tasks together wrong in one case of twenty."""
        if self.p >= ALPHA:
            return "no clear difference"
        return "better" if self.difference.difference > 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "task": self.task,
            "n": self.n,
            "old": self.old._asdict(),
            "new": self.new._asdict(),
            "difference": self.difference._asdict(),
            "mcnemar": self.mcnemar,
            "p_adjusted": self.p,
            "verdict": self.verdict,
            "compatibility": self.compatibility.to_dict(),
            "detectable": self.detectable if math.isfinite(self.detectable) else None,
            "only_old": self.only_old,
            "only_new": self.only_new,
        }


@dataclass(frozen=True)
class Comparison:
    """One model against another.

    Attributes:
        old, new: their names.
        tasks: one by one.
        mean_old, mean_new: means over the tasks, each counting the same, with 95% intervals.
        difference: of these means, paired.
        matrix: right and wrong of all examples together.
    """

    old: str
    new: str
    tasks: tuple[TaskComparison, ...]
    mean_old: Interval
    mean_new: Interval
    difference: Difference
    matrix: FlipMatrix

    @property
    def notices(self) -> list[str]:
        """What the reader must know before the numbers, a sentence each."""
        found = [
            f"{a.task}: compared on the {a.n:,} examples both were asked; {a.only_old:,} only {self.old} and "
            f"{a.only_new:,} only {self.new} was asked are left out."
            for a in self.tasks
            if a.only_old or a.only_new
        ]
        blind = [a.task for a in self.tasks if a.n < 30]
        if blind:
            found.append(f"Fewer than 30 examples of {listed(blind)}: only a very large difference would show.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "old": self.old,
            "new": self.new,
            "mean": {
                "old": self.mean_old._asdict(),
                "new": self.mean_new._asdict(),
                "difference": self.difference._asdict(),
            },
            "flips": {name: getattr(self.matrix, name) for name in self.matrix.__dataclass_fields__},
            "tasks": [task.to_dict() for task in self.tasks],
            "notices": self.notices,
        }


def compare(old: str, new: str, pairs: Sequence[Pairs], *, seed: int = 0) -> Comparison:
    """Compares two models.

    Args:
        old, new: their names.
        pairs: their outcomes, task by task.
        seed: of the bootstrap.

    Raises:
        InputError: there is no example that both answered, or a score is not a number.
    """
    return compare_many(old, {new: pairs}, seed=seed)[0]


def compare_many(old: str, candidates: dict[str, Sequence[Pairs]], *, seed: int = 0) -> list[Comparison]:
    """Compares several models with the same old one, p-values adjusted over all tasks of all of them.

    Args:
        old: the name all are held against.
        candidates: name -> its outcomes beside those of the old one, task by task.
        seed: of the bootstrap.

    Raises:
        InputError: there is no example that both answered, or a score is not a number.
    """
    found = [_compare_one(old, new, pairs, seed) for new, pairs in candidates.items()]
    adjusted = iter(holm([task.p for comparison in found for task in comparison.tasks]))
    return [replace(one, tasks=tuple(replace(task, p=float(next(adjusted))) for task in one.tasks)) for one in found]


def _compare_one(old: str, new: str, pairs: Sequence[Pairs], seed: int) -> Comparison:
    usable = [pair for pair in pairs if len(pair.old)]
    if not usable:
        raise InputError(
            f"'{old}' and '{new}' have no example in common", fix="Evaluate both on the same tasks, asked the same way"
        )
    tasks = [_compared_task(pair, seed) for pair in usable]
    before, after = [pair.old for pair in usable], [pair.new for pair in usable]
    return Comparison(
        old,
        new,
        tuple(tasks),
        macro_interval(before, seed=seed),
        macro_interval(after, seed=seed),
        macro_paired_bootstrap(after, before, seed=seed),
        reduce(add, (task.compatibility.matrix for task in tasks)),
    )


def _compared_task(pair: Pairs, seed: int) -> TaskComparison:
    difference = paired_bootstrap(pair.new, pair.old, seed=seed)
    kept = compatibility(pair.old, pair.new, pair.other_answer)
    flipped = kept.matrix.gained + kept.matrix.lost
    plain = bool(np.isin(pair.old, (0.0, 1.0)).all() and np.isin(pair.new, (0.0, 1.0)).all())
    exact = mcnemar(kept.matrix.gained, kept.matrix.lost) if plain else None
    # For scores by degree the squared movement takes the place of the share that flipped; one example's worth where
    # nothing moved, since so few examples cannot tell never from seldom.
    moved = flipped / kept.matrix.n if plain else float(np.square(pair.new - pair.old).mean())
    return TaskComparison(
        pair.task,
        len(pair.old),
        mean_interval(pair.old, seed=seed),
        mean_interval(pair.new, seed=seed),
        difference,
        exact,
        difference.p if exact is None else exact,
        kept,
        detectable_difference(len(pair.old), min(max(moved, 1 / len(pair.old)), 1.0)),
        pair.only_old,
        pair.only_new,
    )
