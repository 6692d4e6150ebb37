"""What a claim of learning is, and how it is asked of the cells: what is compared in its arms, and when it holds.

The claims themselves stand in `families`. Verdicts and intervals are those of the other claims (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.judged import JudgedClaim
from benchmarks.claims.verdict import Contrast, Figure, Rule
from benchmarks.claims.worlds import GENERIC
from benchmarks.composition.cells import Cell, Cells, Key
from benchmarks.learning.bed import KIND, TARGET

SEEDS = 5
# Points of the target's score within which two arms are equally good; of a compatible update, as its authors' tables.
EQUAL, _POINT = 0.03, 0.01

#: The cells of some arms with one seed -> what is compared in them, by the names of figures.
Compare = Callable[[Mapping[str, Cell]], dict[str, Contrast]]


@dataclass(frozen=True)
class LearningClaim:
    """One claim.

    Attributes:
        name: in the page.
        words: the claim.
        source: where it is made.
        needs: the arms that it is computed from.
        compare: what is compared in them.
        rule: when it holds.
        remark: what a reader must know of the figure, perhaps nothing.
        guards: what the figure "guard" is of, where there is one.
        same_examples: whether all seeds are asked the same test examples.
    """

    name: str
    words: str
    source: str
    needs: tuple[str, ...]
    compare: Compare
    rule: Rule
    remark: str = ""
    guards: str = "target"
    same_examples: bool = False


def key_of(arm: str, seed: int) -> Key:
    """The key of a cell; the number of labels is the same for all arms, and is told in the cell."""
    return Key(KIND.name, seed, arm, 0)


def ask(cells: Cells, claims: Iterable[LearningClaim]) -> list[JudgedClaim[LearningClaim]]:
    """Of some claims those that have all their cells for at least two seeds."""
    found = []
    for claim in claims:
        seeds = sorted(set.intersection(*(set(cells.seeds(KIND.name, arm, 0)) for arm in claim.needs)))
        if len(seeds) > 1:
            found.append(JudgedClaim(claim, tuple(seeds), _figures(cells, claim, seeds), SEEDS))
    return found


def _figures(cells: Cells, claim: LearningClaim, seeds: list[int]) -> dict[str, Figure]:
    compared = [claim.compare({arm: cells[key_of(arm, seed)] for arm in claim.needs}) for seed in seeds]
    same = claim.same_examples
    return {name: Figure.of([one[name] for one in compared], same_examples=same) for name in compared[0]}


# ---------------------------------------------------------------------- what is compared


def scored(first: str, second: str, tasks: Sequence[str]) -> Compare:
    """Two arms on some tasks, each counting the same."""
    return lambda cells: {"main": _on(cells, first, second, tasks)}


def target(first: str, second: str) -> Compare:
    """Two arms on the target."""
    return scored(first, second, (TARGET,))


def forgotten(first: str, second: str) -> Compare:
    """Two arms on the general task."""
    return scored(first, second, (GENERIC,))


def keeping(first: str, second: str) -> Compare:
    """The general task ("main") and the target ("guard") of two arms, and what the second one forgets ("room")."""
    return lambda cells: {
        "main": _on(cells, first, second, (GENERIC,)),
        "guard": _on(cells, first, second, (TARGET,)),
        "room": _on(cells, "base", second, (GENERIC,)),
    }


def told(first: tuple[str, str], second: tuple[str, str] | float) -> Compare:
    """Two numbers that arms say, each as (arm, number), or one and a constant; the seeds alone make the interval."""

    def compare(cells: Mapping[str, Cell]) -> dict[str, Contrast]:
        ours, theirs = (one if isinstance(one, float) else number(cells[one[0]], one[1]) for one in (first, second))
        return {"main": Contrast(ours, theirs, ())}

    return compare


def within(arm: str, first: str, second: str) -> Compare:
    """Two sets of marks of one arm."""
    return lambda cells: {"main": Contrast.of([cells[arm].scores[first]], [cells[arm].scores[second]])}


def gains(first: str, second: str, before: str) -> Compare:
    """The examples that two arms solve and the model that both began as did not."""

    def compare(cells: Mapping[str, Cell]) -> dict[str, Contrast]:
        was = cells[before].scores[TARGET]
        return {"main": Contrast.of(*([(1 - was) * cells[arm].scores[TARGET]] for arm in (first, second)))}

    return compare


def half_the_losses(first: str, second: str, before: str) -> Compare:
    """The share of examples that an arm loses, beside half of what another loses; the seeds alone make the interval."""

    def compare(cells: Mapping[str, Cell]) -> dict[str, Contrast]:
        was = cells[before].scores[TARGET]
        ours, theirs = (float((was * (1 - cells[arm].scores[TARGET])).mean()) for arm in (first, second))
        return {"main": Contrast(ours, theirs / 2, ())}

    return compare


def complement(teacher: str, student: str) -> Compare:
    """The share of examples that a teacher solves and its student does not."""

    def compare(cells: Mapping[str, Cell]) -> dict[str, Contrast]:
        known = cells[teacher].scores[TARGET] * (1 - cells[student].scores[TARGET])
        return {"main": Contrast.of([known], [np.zeros_like(known)])}

    return compare


def negative_flips(first: str, second: str, old: str) -> Compare:
    """What an old version solves and two new ones do not ("main"), and the scores of both ("guard")."""

    def compare(cells: Mapping[str, Cell]) -> dict[str, Contrast]:
        was = cells[old].scores[TARGET]
        return {
            "main": Contrast.of(*([was * (1 - cells[arm].scores[TARGET])] for arm in (first, second))),
            "guard": _on(cells, first, second, (TARGET,)),
        }

    return compare


def number(cell: Cell, name: str) -> float:
    """A number that an arm says of itself."""
    return float(cell.said["numbers"][name])


def _on(cells: Mapping[str, Cell], first: str, second: str, tasks: Sequence[str]) -> Contrast:
    return Contrast.of(*([cells[arm].scores[task] for task in tasks] for arm in (first, second)))


# ---------------------------------------------------------------------- rules


def less(what: str) -> Rule:
    """The first arm has less: the whole interval is below 0."""
    return Rule(f"the interval of {what} is below 0", lambda figures: figures["main"].hi < 0, wants_more=False)


def better_and_equal(what: str, score: str) -> Rule:
    """More of one thing ("main") at an equal score of another ("guard")."""
    return Rule(
        f"the interval of {what} is above 0, and the interval of {score} is above -{EQUAL}",
        lambda figures: figures["main"].lo > 0 and figures["guard"].lo > -EQUAL,
    )


def fewer_flips(what: str, score: str) -> Rule:
    """Fewer flips ("main") at an equal score ("guard")."""
    return Rule(
        f"the interval of {what} is below 0, and the interval of {score} is above -{_POINT}",
        lambda figures: figures["main"].hi < 0 and figures["guard"].lo > -_POINT,
        wants_more=False,
    )
