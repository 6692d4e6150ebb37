"""Shown examples that do not contradict the others: those whose answer is likely where something is known."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from genepool.tasks.example import Example
from genepool.tasks.shown import ShownChoice, shown_choice
from genepool.tasks.shown.alike import AlikeExamples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

# Nearest examples that tell what is done at one; the least mean likeness to them at which that is known; and the least
# chance of an answer that goes with it (all ours: the paper's are of its robots).
_NEIGHBOURS, _KNOWN, _LIKELY = 5, 0.3, 0.5
# Examples that are looked at for one question, at most, until enough are found.
_LOOKED_AT = 1000


@shown_choice
class CompatibleExamples(ShownChoice):
    """Drawn examples, those first that go with the others: a base policy is unsure there, or their answer is likely.

    The base policy is made of the pool itself: at an example it answers as the five with the most similar prompts do,
    each counted by its similarity (that of `alike`). It is unsure where their mean similarity is below 0.3. An answer
    is likely from a chance of a half on. Where there are too few such examples, the likeliest of the others are shown
    too. Nothing of the question is used.
    """

    name = "compatible"
    source = (
        "compatible demonstrations, Gandhi et al. 2022, arXiv:2210.08073: kept are those where the base policy is "
        "unsure, or the act likely; the base policy is the nearest examples instead of an ensemble of networks"
    )
    when = "the training split mixes answers of several habits, or some are wrong"

    def __init__(self, pool: Sequence[Example], name: str) -> None:
        super().__init__(pool, name)
        self._alike = AlikeExamples(pool, name)
        self._chances: dict[int, float] = {}

    def chosen(self, example: Example, count: int, drawn: np.random.Generator) -> list[Example]:
        """See `ShownChoice.chosen`."""
        order = [int(at) for at in drawn.permutation(len(self.pool)) if self.pool[at].key != example.key]
        found: list[int] = []
        others: list[int] = []
        for at in order[:_LOOKED_AT]:
            (found if self.chance(at) >= _LIKELY else others).append(at)
            if len(found) == count:
                break
        else:
            found += [*sorted(others, key=lambda at: -self.chance(at)), *order[_LOOKED_AT:]]
        return [self.pool[at] for at in found[:count]]

    def chance(self, at: int) -> float:
        """The chance of the answer of an example of the pool by its nearest ones; 1 where these are too far to tell.

        Args:
            at: its place in the pool.
        """
        if at not in self._chances:
            self._chances[at] = self._chance(at)
        return self._chances[at]

    def _chance(self, at: int) -> float:
        found = self._alike.nearest(self.pool[at], _NEIGHBOURS + 1)
        near = [(other, share) for other, share in found if other != at][:_NEIGHBOURS]
        total = sum(share for _, share in near)
        if not near or total / len(near) < _KNOWN:
            return 1.0
        chances: dict[str, float] = defaultdict(float)
        for other, share in near:
            chances[self.pool[other].answer] += share / total
        return max(chances.get(answer, 0.0) for answer in self.pool[at].answers)
