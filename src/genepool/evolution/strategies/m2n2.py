"""M2N2: models compete for examples as species for food, and mate with those who solve what they cannot.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.evolution.selection import proportional_probabilities
from genepool.evolution.strategies import Breeder, Count, Evidence, StrategyOptions, register
from genepool.evolution.strategies.base import Birth, succeeded
from genepool.seeding import derive, numpy_generator

if TYPE_CHECKING:
    import numpy as np


class M2n2Options(StrategyOptions):
    """Options of M2N2; the defaults are the authors' (Abrantes et al. 2025)."""

    population: Count = Field(default=20, ge=2, description="Models in the archive.")
    alpha: float = Field(
        default=1.0,
        ge=0,
        description="How strongly models that solve an example share its point; 0: a plain genetic algorithm.",
    )
    attraction: bool = Field(default=True, description="Choose a second parent that solves what the first does not.")
    split: bool = Field(default=True, description="Interpolate with weight w before a split point and 1 - w after it.")
    from_scratch: Count = Field(
        default=0, ge=0, description="Begin with N random models instead of the skills; 0: with the skills."
    )
    sigma: float = Field(
        default=0.01, gt=0, description="Standard deviation of random models and of mutations; only with from_scratch."
    )
    children: Count = Field(
        default=1, ge=1, description="Children in a generation; more children keep more workers busy."
    )


@register(
    "m2n2",
    title="M2N2",
    source="Abrantes, Lange & Tang 2025, arXiv:2508.16204: archive 20, alpha 1, mutation 0.01 only from scratch",
    when="Specialists of different kinds: keeps them apart while it merges them; also from random models.",
    needs=("fitness", "examples"),
)
class M2n2(Breeder[M2n2Options]):
    """A child a generation: SLERP with a random split point; it takes the place of the worst in the archive.

    A model's worth is the sum of its scores, each divided by what all models together score on that example to the
    power alpha, and weighted as the study weights its tasks. The first parent is drawn by worth, the second by what it
    would add.
    """

    steady = True
    fewest = 0

    def __init__(self, founders: Sequence[str], tasks: Sequence[str], seed: int, options: M2n2Options) -> None:
        super().__init__(founders, tasks, seed, options)
        if not options.from_scratch and len(founders) < 2:
            raise ValueError("m2n2 needs 2 skills or more, or `from_scratch`")
        self._names: list[str] = []
        self._scores: list[np.ndarray] = []
        self._importance: np.ndarray | None = None

    def living(self) -> frozenset[str]:
        return frozenset(self._names)

    def collection(self) -> list[dict[str, Any]]:
        """The archive, with each model's worth: what it gets of all examples."""
        import numpy as np

        worth = self._shares(np.array(self._scores)).sum(1) if self._names else []
        return [
            {"name": name, "group": "archive", "scores": {"mean": float(scores.mean()), "worth": float(one)}}
            for name, scores, one in zip(self._names, self._scores, worth, strict=True)
        ]

    def _ask(self) -> list[Birth]:
        options = self.options
        if not self.generation:
            if options.from_scratch:
                seeds = [derive(self.seed, "m2n2", "random", i) for i in range(options.from_scratch)]
                return [Birth("random", (), {"sigma": options.sigma}, seed) for seed in seeds]
            return [Birth("copy", (name,)) for name in self.founders]
        generator = numpy_generator(self.seed, "m2n2", self.generation)
        return [self._child(generator, i) for i in range(options.children)]

    def _child(self, generator: np.random.Generator, place: int) -> Birth:
        import numpy as np

        options = self.options
        shares = self._shares(np.array(self._scores))
        first = int(generator.choice(len(shares), p=proportional_probabilities(shares.sum(1))))
        # Without attraction both are drawn alike, and may be the same.
        odds = proportional_probabilities(shares.sum(1))
        if options.attraction:
            worth = np.maximum(0, shares - shares[first]).sum(1)
            odds = proportional_probabilities(worth)
            if not worth.any():
                # No model adds anything: any but the first.
                odds = (np.arange(len(worth)) != first) / max(len(worth) - 1, 1)
        second = int(generator.choice(len(odds), p=odds)) if len(odds) > 1 else first
        settings = {
            "split": float(generator.random()) if options.split else 1.0,
            "weight": float(generator.random()),
        }
        if options.from_scratch:
            settings["sigma"] = options.sigma
        seed = derive(self.seed, "m2n2", "child", self.generation, place) if options.from_scratch else 0
        return Birth("splice", (self._names[first], self._names[second]), settings, seed)

    def _shares(self, scores: np.ndarray) -> np.ndarray:
        """What each model gets of each example, shape (models, examples)."""
        import numpy as np

        options = self.options
        total = scores.sum(0)
        shares: np.ndarray = scores / np.where(total > 0, total, 1.0) ** options.alpha
        return shares if self._importance is None else shares * self._importance

    def _tell(
        self, names: Sequence[str], births: Sequence[Birth], fitness: np.ndarray, evidence: Evidence | None
    ) -> None:
        import numpy as np

        options = self.options
        if evidence is None:
            raise ValueError("M2N2 must be told the score of every example")
        self._importance = evidence.importance
        for place in succeeded(len(names), evidence):
            self._names.append(names[place])
            self._scores.append(np.asarray(evidence.scores[place], dtype=np.float64))
            if len(self._names) > options.population:
                worst = int(np.argmin(self._shares(np.array(self._scores)).sum(1)))
                del self._names[worst], self._scores[worst]
