"""Differential evolution, with the steps and the crossover rate learned on the way (JADE).

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, default_population, register
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np


class DifferentialEvolutionOptions(StrategyOptions):
    """Options of differential evolution; the defaults are JADE's (Zhang & Sanderson 2009, section IV)."""

    population: Count | None = Field(
        default=None,
        ge=5,
        description="Individuals; null is twice 4 + floor(3 ln d), for JADE's 30 and more are for budgets of 100,000.",
    )
    greed: float = Field(default=0.05, gt=0, le=1, description="Step towards one of this best share (JADE's p).")
    learning: float = Field(default=0.1, ge=0, le=1, description="How fast steps and crossover adapt (JADE's c).")


@register(
    "differential_evolution",
    source="Storn & Price 1997; current-to-pbest/1/bin with archive and adaptation of Zhang & Sanderson 2009 (JADE)",
    when="A second opinion to CMA-ES, also where the best lies at ends of ranges; takes about twice the evaluations.",
)
class DifferentialEvolution(Strategy[DifferentialEvolutionOptions]):
    """A population whose members move towards good ones by differences of others, and stay where that is no better.

    The first generation is the start and uniform points; every later one a trial for each member.
    """

    def __init__(self, start: np.ndarray, seed: int, options: DifferentialEvolutionOptions) -> None:
        super().__init__(start, seed, options)
        self.size = options.population or 2 * default_population(self.dimensions)
        # Means that the step F and the crossover rate CR are drawn around.
        self.step, self.crossover = 0.5, 0.5
        self._members: np.ndarray | None = None
        self._fitness: np.ndarray | None = None
        self._archive: list[np.ndarray] = []
        self._drawn: tuple[np.ndarray, np.ndarray] | None = None

    def _ask(self) -> np.ndarray:
        import numpy as np

        generator = numpy_generator(self.seed, "differential_evolution", self.generation)
        if self._members is None or self._fitness is None:
            xs = generator.uniform(size=(self.size, self.dimensions))
            xs[0] = self.start
            return xs
        members, size, d = self._members, self.size, self.dimensions
        rates = generator.normal(self.crossover, 0.1, size).clip(0, 1)
        steps = _cauchy(generator, self.step, size)
        self._drawn = steps, rates
        options = self.options
        best = np.argsort(-self._fitness, kind="stable")[: max(2, round(options.greed * size))]
        towards = members[generator.choice(best, size)]
        pool = np.vstack([members, *self._archive]) if self._archive else members
        first = np.array([_other(generator, size, (i,)) for i in range(size)])
        second = np.array([_other(generator, len(pool), (i, int(first[i]))) for i in range(size)])
        moved = members + steps[:, None] * (towards - members + members[first] - pool[second])
        # Half way back to where it came from, rather than onto the wall, where diversity dies.
        moved = np.where(moved < 0, members / 2, np.where(moved > 1, (members + 1) / 2, moved))
        taken = generator.random((size, d)) < rates[:, None]
        taken[np.arange(size), generator.integers(d, size=size)] = True
        return np.where(taken, moved, members)

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        import numpy as np

        if self._members is None or self._fitness is None or self._drawn is None:
            self._members, self._fitness = xs.copy(), fitness.copy()
            return
        better = fitness > self._fitness
        generator = numpy_generator(self.seed, "differential_evolution", "archive", self.generation + 1)
        self._archive += list(self._members[better])
        while len(self._archive) > self.size:
            self._archive.pop(int(generator.integers(len(self._archive))))
        # A trial that is only as good stays out (JADE, algorithm 1: the parent stays where f(x) <= f(u)).
        self._members = np.where(better[:, None], xs, self._members)
        self._fitness = np.where(better, fitness, self._fitness)
        if better.any():
            c, (steps, rates) = self.options.learning, (drawn[better] for drawn in self._drawn)
            # Lehmer's mean, which favours long steps: success alone would favour short ones.
            self.step = (1 - c) * self.step + c * float((steps**2).sum() / steps.sum())
            self.crossover = (1 - c) * self.crossover + c * float(rates.mean())


def _cauchy(generator: np.random.Generator, centre: float, size: int) -> np.ndarray:
    """Steps around `centre` with scale 0.1, shape (size,): drawn again when not above 0, at most 1."""
    import numpy as np

    steps = centre + 0.1 * generator.standard_cauchy(size)
    while (steps <= 0).any():
        steps = np.where(steps <= 0, centre + 0.1 * generator.standard_cauchy(size), steps)
    return np.minimum(steps, 1.0)


def _other(generator: np.random.Generator, count: int, than: tuple[int, ...]) -> int:
    while (found := int(generator.integers(count))) in than:
        pass
    return found
