"""From paired outcomes to a verdict, by rules that are stated before there are figures.

A contrast is two arms on the same examples. Its interval must hold for other seeds and other examples alike, so it is
the wider of two: Student's t over the seeds' differences, and a paired bootstrap over examples with the seeds fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genepool.measure.intervals import resampled_means

HOLDS, FAILS, UNASKED = "holds", "does not hold here", "cannot be asked at this size"
# Two-sided 95% quantiles of Student's t with 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MOST_SEEDS = len(_STUDENT) + 1


def student(seeds: int) -> float:
    """The two-sided 95% quantile of Student's t for a mean over some seeds, from 2 to `MOST_SEEDS`."""
    return _STUDENT[seeds - 2]


@dataclass(frozen=True)
class Contrast:
    """Two arms on the same examples, with one seed.

    Attributes:
        first, second: the arms' mean scores, each task counting the same.
        changes: for each task how many examples only the second solved, how many both or neither, how many only the
            first: all that a paired comparison needs. Empty where the arms' numbers are no means over examples: then
            only the seeds make an interval.
    """

    first: float
    second: float
    changes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Contrast:
        """From scores of 0 and 1, one array a task, of the same examples in the same order."""
        changes = []
        for ours, theirs in zip(first, second, strict=True):
            if len(ours) != len(theirs):
                raise ValueError(f"{len(ours)} examples against {len(theirs)}")
            moved = ours - theirs
            changes.append((int((moved < 0).sum()), int((moved == 0).sum()), int((moved > 0).sum())))
        return cls(_mean(first), _mean(second), tuple(changes))

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def moved(self) -> Sequence[np.ndarray]:
        """First minus second of every example, one array a task."""
        return [np.repeat([-1.0, 0.0, 1.0], change) for change in self.changes]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"first": self.first, "second": self.second, "changes": [list(change) for change in self.changes]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contrast:
        """From `to_dict`."""
        return cls(data["first"], data["second"], tuple(tuple(change) for change in data["changes"]))


def _mean(parts: Sequence[np.ndarray]) -> float:
    return float(np.mean([part.mean() for part in parts]))


@dataclass(frozen=True)
class Figure:
    """A contrast over all seeds: both arms' means, their difference and its 95% interval."""

    first: float
    second: float
    difference: float
    lo: float
    hi: float

    @classmethod
    def of(cls, contrasts: Sequence[Contrast], *, same_examples: bool = False) -> Figure:
        """Over the seeds, one contrast each.

        Args:
            contrasts: of the seeds.
            same_examples: seeds share their examples, which are one sample then: their bootstraps are taken to have
                their luck at once, which is the widest interval there can be.

        Raises:
            ValueError: more seeds than there are quantiles of t for.
        """
        seeds = len(contrasts)
        if not 1 <= seeds <= MOST_SEEDS:
            raise ValueError(f"{seeds} seeds: from 1 to {MOST_SEEDS} are possible")
        values = np.array([contrast.difference for contrast in contrasts])
        mean = float(values.mean())
        lo = hi = mean
        draws = [
            resampled_means(moved, seed=seed, place=place)
            for seed, contrast in enumerate(contrasts)
            for place, moved in enumerate(contrast.moved)
        ]
        weights = [1 / (seeds * len(contrast.moved)) for contrast in contrasts for _ in contrast.moved]
        if draws:
            found = np.average(draws, axis=0, weights=weights)
            if same_examples:
                parts = np.split(np.array(draws), np.cumsum([len(one.moved) for one in contrasts])[:-1])
                found = np.mean([np.sort(part.mean(0)) for part in parts], axis=0)
            lo, hi = map(float, np.percentile(found, [2.5, 97.5]))
        if seeds > 1:
            half = student(seeds) * float(values.std(ddof=1)) / math.sqrt(seeds)
            lo, hi = min(lo, mean - half), max(hi, mean + half)
        first, second = (float(np.mean([getattr(c, side) for c in contrasts])) for side in ("first", "second"))
        return cls(first, second, mean, lo, hi)

    def text(self, places: int = 3) -> str:
        """`+0.120 [+0.08, +0.16] (0.71 to 0.83)`: the difference, its interval, from the second arm to the first.

        Args:
            places: digits behind the point; the arms have one less.
        """
        difference, lo, hi = (f"{value:+.{places}f}" for value in (self.difference, self.lo, self.hi))
        first, second = (f"{value:.{places - 1}f}" for value in (self.first, self.second))
        return f"{difference} [{lo}, {hi}] ({second} to {first})"


@dataclass(frozen=True)
class Rule:
    """When a claim holds.

    Attributes:
        words: the rule, for the page.
        holds: figures by name -> whether it does.
        unasked: figures by name -> why the question cannot be put here, or None.
        wants_more: whether the claim is that the first arm scores more.
    """

    words: str
    holds: Callable[[Mapping[str, Figure]], bool]
    unasked: Callable[[Mapping[str, Figure]], str | None] = lambda figures: None
    wants_more: bool = True

    def verdict(self, figures: Mapping[str, Figure]) -> str:
        """One of the three words."""
        if self.unasked(figures) is not None:
            return UNASKED
        return HOLDS if self.holds(figures) else FAILS


# Points of score that may be lost where something is to be kept, and that must be lost where something is to fail.
MARGIN, FAILURE = 0.03, 0.10


def better(what: str) -> Rule:
    """The first arm is better: the whole interval of the difference is above zero."""
    return Rule(f"the interval of {what} is above 0", lambda figures: figures["main"].lo > 0)


def kept(what: str, margin: float = MARGIN) -> Rule:
    """Nothing much is lost: the interval stays above minus the margin."""
    words = f"the interval of {what} is above -{margin}"
    return Rule(words, lambda figures: figures["main"].lo > -margin, wants_more=False)


def failing(what: str) -> Rule:
    """Much is lost: the whole interval is below minus the failure."""
    words = f"the interval of {what} is below -{FAILURE:.2f}"
    return Rule(words, lambda figures: figures["main"].hi < -FAILURE, wants_more=False)


def better_at_no_cost(what: str, cost: str) -> Rule:
    """More of one thing ("main"), and nothing much of another lost ("guard"); "room" is what there is to be kept."""

    def unasked(figures: Mapping[str, Figure]) -> str | None:
        room = figures["room"]
        # Without a loss there is nothing to keep.
        return f"only {max(0.0, room.difference):.2f} is lost without it" if room.difference < MARGIN else None

    return Rule(
        f"the interval of {what} is above 0, and the interval of {cost} is above -{MARGIN}. It cannot be asked if less "
        f"than {MARGIN} is lost without the method",
        lambda figures: figures["main"].lo > 0 and figures["guard"].lo > -MARGIN,
        unasked,
    )
