"""Shown examples whose prompts are most like the question."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import islice
from typing import TYPE_CHECKING

from genepool.tasks.example import Example
from genepool.tasks.shown import ShownChoice, shown_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

# Characters of a piece: long enough to say something, short enough for texts without words.
_LENGTH = 3


@shown_choice
class AlikeExamples(ShownChoice):
    """The examples with the most similar prompts, the most similar one last, next to the question.

    Similarity is the cosine of the counts of all runs of three characters, each weighted by the logarithm of how few
    prompts of the pool have it. Of equally similar ones the first of the training split are shown.
    """

    name = "alike"
    source = (
        "retrieval of similar examples, Liu et al. 2022, arXiv:2101.06804, and their order; likeness by runs of "
        "characters instead of a sentence encoder is ours"
    )
    when = "prompts that look alike are solved alike"

    def __init__(self, pool: Sequence[Example], name: str) -> None:
        super().__init__(pool, name)
        counts = [_runs(one.prompt) for one in self.pool]
        having = Counter(run for one in counts for run in one)
        # A run that no prompt of the pool has makes none of them more alike.
        self._weights = {run: math.log((1 + len(counts)) / (1 + number)) for run, number in having.items()}
        self._places: dict[str, list[tuple[int, float]]] = {}
        for at, one in enumerate(counts):
            for run, share in self._vector(one).items():
                self._places.setdefault(run, []).append((at, share))

    def chosen(self, example: Example, count: int, drawn: np.random.Generator) -> list[Example]:
        """See `ShownChoice.chosen`."""
        found = [self.pool[at] for at, _ in self.nearest(example, len(self.pool)) if self.pool[at].key != example.key]
        return found[:count][::-1]

    def nearest(self, example: Example, count: int) -> list[tuple[int, float]]:
        """The places in the pool of the most similar ones, the example itself too, each with its similarity."""
        likeness: dict[int, float] = defaultdict(float)
        for run, share in self._vector(_runs(example.prompt)).items():
            for at, other in self._places.get(run, ()):
                likeness[at] += share * other
        ranked = sorted(likeness, key=lambda at: (-round(likeness[at], 9), at))[:count]
        # The others share nothing with it.
        rest = (at for at in range(len(self.pool)) if at not in likeness)
        return [(at, likeness[at]) for at in ranked] + [(at, 0.0) for at in islice(rest, count - len(ranked))]

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        """Weighted counts of length 1; empty where nothing has a weight."""
        weighted = {run: number * self._weights.get(run, 0.0) for run, number in counts.items()}
        length = math.sqrt(sum(value * value for value in weighted.values()))
        return {run: value / length for run, value in weighted.items() if value} if length else {}


def _runs(text: str) -> Counter[str]:
    """How often each run of characters is there; the whole text where it is shorter."""
    return Counter(text[at : at + _LENGTH] for at in range(max(1, len(text) - _LENGTH + 1)))
