"""LCSC: coefficients of the saved checkpoints of one training run, by an evolutionary search.

Uses numpy only. Registered as a strategy; driven by the study's loop. That the coefficients sum to 1 is seen to by what
the study varies: `checkpoint_coefficients`, or a searched parameter with `sum: 1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, register
from genepool.evolution.strategies.base import succeeded
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np


class LcscOptions(StrategyOptions):
    """Options of LCSC; the search is the paper's (Liu et al. 2024), its numbers are ours where the paper has none."""

    population: Count = Field(default=20, ge=2, description="Candidates that are kept: the N best.")
    parents: Count = Field(default=10, ge=2, description="Candidates that may breed: the N best.")
    children: Count = Field(default=10, ge=1, description="Children a generation.")
    crossover: float = Field(default=0.8, ge=0, le=1, description="Probability that a child has two parents.")
    sigma: float = Field(default=0.05, gt=0, description="Spread of a mutation, in widths of the range.")
    mutation: float = Field(default=0.3, gt=0, le=1, description="Share of the coefficients that a mutation moves.")


@register(
    "lcsc",
    title="LCSC",
    source="Liu et al. 2024, arXiv:2404.02241 (LCSC): evolutionary search over the coefficients of checkpoints, sum "
    "1, negative ones allowed",
    when="Checkpoints of one run as skills: coefficients that sum to 1 and may be negative beat averaging.",
    usual="checkpoint_coefficients",
)
class Lcsc(Strategy[LcscOptions]):
    """Children average two of the best, or take each coefficient from one of them, and mutate; the best are kept.

    The first generation is the start (all checkpoints alike) and mutations of it.
    """

    steady = True

    def __init__(self, start: np.ndarray, seed: int, options: LcscOptions) -> None:
        import numpy as np

        super().__init__(start, seed, options)
        self._xs = np.empty((0, self.dimensions))
        self._fitness = np.empty(0)

    def _ask(self) -> np.ndarray:
        import numpy as np

        options = self.options
        generator = numpy_generator(self.seed, "lcsc", self.generation)
        if not len(self._xs):
            xs = self._mutated(generator, np.tile(self.start, (options.population, 1)))
            xs[0] = self.start
            return xs
        best = self._xs[: options.parents]
        pairs = generator.integers(len(best), size=(options.children, 2))
        first, second = best[pairs[:, 0]], best[pairs[:, 1]]
        averaged = generator.random((options.children, 1)) < 0.5
        taken = generator.random(first.shape) < 0.5
        crossed = np.where(averaged, (first + second) / 2, np.where(taken, first, second))
        two = generator.random((options.children, 1)) < options.crossover
        return self._mutated(generator, np.where(two, crossed, first))

    def _mutated(self, generator: np.random.Generator, xs: np.ndarray) -> np.ndarray:
        import numpy as np

        options = self.options
        moved = generator.random(xs.shape) < options.mutation
        return np.clip(xs + options.sigma * generator.standard_normal(xs.shape) * moved, 0, 1)

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        import numpy as np

        options = self.options
        alive = succeeded(len(xs), evidence)
        points, values = np.vstack([self._xs, xs[alive]]), np.concatenate([self._fitness, fitness[alive]])
        kept = np.argsort(-values, kind="stable")[: options.population]
        self._xs, self._fitness = points[kept], values[kept]
