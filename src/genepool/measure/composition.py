"""Composition: what becomes of single tasks where a task needs several of them at once.

The weakest-link test of cross-capabilities, the success of mixes against the product of single skills, and the point
scores of Skill-Mix. Computed from scores and from the skills that examples are tagged with.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool import seeding
from genepool.errors import InputError, listed
from genepool.measure.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Difference,
    Interval,
    Scores,
    mean_interval,
    resampled_means,
    wilson,
)
from genepool.measure.significance import mcnemar

Place = Literal["below both", "nearer the weaker", "halfway", "nearer the stronger", "above both"]
_COUNTS_AT_ONCE = 1 << 22
# What differs by less is the same score computed in another order.
_SAME = 1e-12


# ---------------------------------------------------------------------- cross-capabilities


@dataclass(frozen=True)
class CrossCapability:
    """One model on two tasks and on tasks that need both.

    Attributes:
        first, second: mean scores on the single tasks.
        both: mean score where both are needed, on the same scale.
    """

    first: float
    second: float
    both: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.first, self.second, self.both))):
            raise InputError("a score is not a number", fix="Check the metric of the task")

    @property
    def position(self) -> float | None:
        """(both - weaker) / (stronger - weaker): 0 is the weaker task, 1 the stronger. None where they are equal."""
        low, high = sorted((self.first, self.second))
        return (self.both - low) / (high - low) if high - low > _SAME else None

    @property
    def place(self) -> Place | None:
        """Where `both` lies. A score equal to a single one is between them; None where the two are equal."""
        at = self.position
        if at is None:
            return None
        if at < -_SAME:
            return "below both"
        if at > 1 + _SAME:
            return "above both"
        if abs(at - 0.5) <= _SAME:
            return "halfway"
        return "nearer the weaker" if at < 0.5 else "nearer the stronger"


@dataclass(frozen=True)
class WeakestLink:
    """Whether tasks together are as good as the weaker of them.

    Attributes:
        below, nearer_weaker, halfway, nearer_stronger, above: how many (model, pair) rows have their score where both
            tasks are needed below both single scores, between them, or above both.
        equal: rows whose single scores are equal: there is no weaker one, and they count nowhere else.
        weaker: share of rows nearer the weaker task or below both, of those not halfway, with Wilson's interval;
            None where there are none.
        median: median position, 0 being the weaker task and 1 the stronger; None where all rows are equal.
        p: two-sided exact sign test of `weaker` against one half. It takes the rows for independent, which several
            rows of one model are not quite.
    """

    below: int
    nearer_weaker: int
    halfway: int
    nearer_stronger: int
    above: int
    equal: int
    weaker: Interval | None
    median: float | None
    p: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "weaker": None if self.weaker is None else self.weaker._asdict()}


def weakest_link(rows: Sequence[CrossCapability]) -> WeakestLink:
    """The weakest-link test over many (model, pair of tasks) rows.

    Zhong et al., "Law of the Weakest Link: Cross Capabilities of Large Language Models", 2024, who found 38 of 58 rows
    below both and 20 nearer the weaker.

    Raises:
        InputError: there are no rows.
    """
    if not rows:
        raise InputError("there are no rows", fix="Give at least one row")
    places = [row.place for row in rows]
    order: tuple[Place, ...] = ("below both", "nearer the weaker", "halfway", "nearer the stronger", "above both")
    below, nearer_weaker, halfway, nearer_stronger, above = (places.count(place) for place in order)
    weaker, stronger = below + nearer_weaker, nearer_stronger + above
    positions = [row.position for row in rows if row.position is not None]
    return WeakestLink(
        below,
        nearer_weaker,
        halfway,
        nearer_stronger,
        above,
        places.count(None),
        wilson(weaker, weaker + stronger) if weaker + stronger else None,
        float(np.median(positions)) if positions else None,
        # The sign test is McNemar's binomial: rows on one side against rows on the other.
        mcnemar(weaker, stronger),
    )


# ---------------------------------------------------------------------- mixes of skills


@dataclass(frozen=True)
class Mixed:
    """Success where skills are combined, against what their single success would give if they failed independently.

    Attributes:
        k: how many skills an example combines.
        skills: the combination, sorted; empty for all combinations of k together.
        n: examples.
        success: mean score with its 95% interval, Wilson's where all are right or wrong.
        expected: product of the single skills' mean scores, averaged over the examples. None where one of the skills
            was never asked alone; then there is no difference and no ratio either.
        difference: success minus expected, with a bootstrap interval.
        ratio: success over expected; its upper end is infinite where the product may be zero. None where it is zero.
    """

    k: int
    skills: tuple[str, ...]
    n: int
    success: Interval
    expected: float | None
    difference: Difference | None
    ratio: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; null for an infinite end."""
        ratio = None if self.ratio is None else self.ratio._asdict()
        return {
            "k": self.k,
            "skills": list(self.skills),
            "n": self.n,
            "success": self.success._asdict(),
            "expected": self.expected,
            "difference": None if self.difference is None else self.difference._asdict(),
            "ratio": ratio and {end: value if math.isfinite(value) else None for end, value in ratio.items()},
        }


@dataclass(frozen=True)
class SkillMix:
    """How well skills combine.

    Attributes:
        singles: skill -> mean score of the examples that need it alone, with its interval.
        by_k: one for every k above 1 that there are examples of, ascending.
        combinations: one for every combination of at least two skills, by k and then by name.
    """

    singles: Mapping[str, Interval]
    by_k: tuple[Mixed, ...]
    combinations: tuple[Mixed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "singles": {skill: interval._asdict() for skill, interval in self.singles.items()},
            "by_k": [mixed.to_dict() for mixed in self.by_k],
            "combinations": [mixed.to_dict() for mixed in self.combinations],
        }


def skill_mix(
    skills: Sequence[Collection[str]], scores: ArrayLike, *, among: Collection[str] | None = None, seed: int = 0
) -> SkillMix:
    """Success by the number of combined skills and by combination, against the product of the single skills.

    The bootstrap draws the examples of every single skill and those of the mix anew, so that it carries the doubt in
    both.

    Args:
        skills: for each example the skills it combines, as its tags name them; their order is no matter.
        scores: from 0 to 1, shape (n,).
        among: which tags are skills; all of them when None.
        seed: of the bootstrap.

    Raises:
        InputError: there are no examples, one has no skill or one twice, or a score is not from 0 to 1.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(skills),) or not len(skills):
        raise InputError(
            f"got scores of shape {values.shape} for {len(skills)} examples", fix="Give one score for each example"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("a score is not from 0 to 1", fix="Check the metric of the task")
    tags = [tuple(sorted(tag for tag in of if among is None or tag in among)) for of in skills]
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, of in enumerate(tags):
        if not of or len(set(of)) != len(of):
            what = f"is tagged with {listed(of)}, one of them twice" if of else "is tagged with no skill"
            raise InputError(f"example {place} {what}", fix="Tag every example with the skills it combines, once each")
        groups.setdefault(of, []).append(place)
    alone = {of[0]: values[places] for of, places in sorted(groups.items()) if len(of) == 1}
    singles = _Singles(alone, seed)
    combined = {of: values[places] for of, places in sorted(groups.items(), key=lambda item: (len(item[0]), item[0]))}
    return SkillMix(
        {skill: mean_interval(of, seed=seed) for skill, of in alone.items()},
        tuple(
            _mixed(k, (), {of: part for of, part in combined.items() if len(of) == k}, singles)
            for k in sorted({len(of) for of in combined} - {1})
        ),
        tuple(_mixed(len(of), of, {of: part}, singles) for of, part in combined.items() if len(of) > 1),
    )


class _Singles:
    """Mean scores of single skills, and bootstrap draws of them: the same draws wherever a skill is combined."""

    def __init__(self, alone: Mapping[str, Scores], seed: int) -> None:
        self.seed = seed
        self.means = {skill: float(scores.mean()) for skill, scores in alone.items()}
        self.drawn = {
            # Seeded by its name: other skills beside it change nothing.
            skill: resampled_means(scores, seed=seeding.derive(seed, "skill", skill))
            for skill, scores in alone.items()
        }

    def expected(self, skills: Sequence[str]) -> float:
        return math.prod(self.means[skill] for skill in skills)

    def draws(self, skills: Sequence[str], start: int, stop: int) -> Scores:
        product: Scores = np.prod([self.drawn[skill][start:stop] for skill in skills], axis=0)
        return product


def _mixed(k: int, named: tuple[str, ...], parts: Mapping[tuple[str, ...], Scores], singles: _Singles) -> Mixed:
    scores = np.concatenate(list(parts.values()))
    success = mean_interval(scores, seed=singles.seed)
    if any(skill not in singles.means for of in parts for skill in of):
        return Mixed(k, named, len(scores), success, None, None, None)
    expected = sum(len(part) * singles.expected(of) for of, part in parts.items()) / len(scores)
    got, product = _drawn(k, named, parts, singles)
    return Mixed(
        k,
        named,
        len(scores),
        success,
        expected,
        _difference(success.mean - expected, got - product),
        _ratio(success.mean / expected, got, product) if expected > 0 else None,
    )


def _drawn(
    k: int, named: tuple[str, ...], parts: Mapping[tuple[str, ...], Scores], singles: _Singles
) -> tuple[Scores, Scores]:
    """Bootstrap draws of the mean score and of the expected one, shape (draws,) each.

    Examples are drawn over all combinations together, each taking its own product along: combinations with an example
    each would seem to be without doubt if drawn one by one. Examples of one combination and score are counted alike.
    """
    kinds = [np.unique(part, return_counts=True) for part in parts.values()]
    scores = np.concatenate([distinct for distinct, _ in kinds])
    counts = np.concatenate([often for _, often in kinds])
    starts = np.cumsum([0, *(len(distinct) for distinct, _ in kinds[:-1])])
    generator = seeding.numpy_generator(singles.seed, "mix", k, *named)
    got, expected = [], []
    rows = max(1, _COUNTS_AT_ONCE // len(scores))
    for start in range(0, RESAMPLES, rows):
        stop = min(start + rows, RESAMPLES)
        drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=stop - start)
        got.append(drawn @ scores / counts.sum())
        of_each = np.add.reduceat(drawn, starts, axis=1)
        products = np.stack([singles.draws(of, start, stop) for of in parts], axis=1)
        expected.append((of_each * products).sum(axis=1) / counts.sum())
    return np.concatenate(got), np.concatenate(expected)


def _difference(value: float, draws: Scores) -> Difference:
    tail = 100 * (1 - CONFIDENCE) / 2
    lo, hi = np.percentile(draws, [tail, 100 - tail])
    below, above = int((draws <= 0).sum()) + 1, int((draws >= 0).sum()) + 1
    return Difference(value, float(lo), float(hi), min(1.0, 2 * min(below, above) / (len(draws) + 1)))


def _ratio(value: float, got: Scores, expected: Scores) -> Interval:
    """Percentiles of the quotients; those over zero are infinite, and zero over zero says nothing."""
    known = (got > 0) | (expected > 0)
    with np.errstate(divide="ignore"):
        quotients = np.sort(got[known] / expected[known])
    tail = (1 - CONFIDENCE) / 2
    # An order statistic: between a finite one and an infinite one nothing can be interpolated.
    lo, hi = np.quantile(quotients, [tail, 1 - tail], method="inverted_cdf") if len(quotients) else (value, value)
    return Interval(value, float(lo), float(hi))


# ---------------------------------------------------------------------- points of Skill-Mix


@dataclass(frozen=True)
class PointScores:
    """Skill-Mix's three scores over texts that were to show k skills; means with 95% intervals.

    Attributes:
        k: number of skills.
        n: texts.
        full_marks: share of texts with all k + 3 points.
        all_skills: share with all k skills and two at least of the other three points.
        skill_fraction: mean share of the k skills shown, counted 0 unless all other three points are given.
    """

    k: int
    n: int
    full_marks: Interval
    all_skills: Interval
    skill_fraction: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        scores = {name: getattr(self, name)._asdict() for name in ("full_marks", "all_skills", "skill_fraction")}
        return {"k": self.k, "n": self.n, **scores}


def point_scores(skills: ArrayLike, others: ArrayLike, *, seed: int = 0) -> PointScores:
    """Scores of texts by the points a grader gave, k + 3 each.

    Yu et al., "Skill-Mix: a Flexible and Expandable Family of Evaluations for AI models", 2023.

    Args:
        skills: whether each skill is shown, shape (n, k), 0 or 1 (where several graders voted, the majority's).
        others: whether the text keeps to its topic, makes sense, and keeps to its length, shape (n, 3).
        seed: of the bootstrap.

    Raises:
        InputError: a shape is another, or a mark is neither 0 nor 1.
    """
    shown, rest = _marks(skills), _marks(others)
    if len(shown) != len(rest) or rest.shape[1] != 3:
        raise InputError(f"got marks of shapes {shown.shape} and {rest.shape}, expected (n, k) and (n, 3)")
    every, points = shown.all(axis=1), rest.sum(axis=1)
    fraction = np.where(points == 3, shown.mean(axis=1), 0.0)
    return PointScores(
        shown.shape[1],
        len(shown),
        wilson(int((every & (points == 3)).sum()), len(shown)),
        wilson(int((every & (points >= 2)).sum()), len(shown)),
        mean_interval(fraction, seed=seed),
    )


def _marks(given: ArrayLike) -> NDArray[np.bool_]:
    marks = np.asarray(given)
    if marks.ndim != 2 or not marks.size:
        raise InputError(f"got marks of shape {marks.shape}, expected (texts, points)", fix="Give a row for each text")
    if not np.isin(marks, (0, 1)).all():
        raise InputError("a mark is neither 0 nor 1", fix="Mark every point with 0 or 1")
    found: NDArray[np.bool_] = marks.astype(bool)
    return found
