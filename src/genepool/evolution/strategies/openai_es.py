"""OpenAI-ES: a gradient estimated from mirrored noise, followed by Adam.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, default_population, register
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np

# Kingma & Ba 2015, algorithm 1.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class OpenAiEsOptions(StrategyOptions):
    """Options of OpenAI-ES.

    The paper's noise of 0.02 and learning rate of 0.01 are for weights of a network; both are widened here for a search
    of a few dozen generations inside a range.
    """

    sigma: float = Field(default=0.1, gt=0, le=1, description="Spread of the noise, in widths of the search range.")
    rate: float = Field(default=0.02, gt=0, le=1, description="Adam's learning rate, in widths of the search range.")
    decay: float = Field(default=0.005, ge=0, lt=1, description="Pull towards the start (the paper's L2 of 0.005).")
    population: Count | None = Field(
        default=None, ge=2, description="Candidates a generation, in mirrored pairs; null is 4 + floor(3 ln d), evened."
    )


@register(
    "openai_es",
    title="OpenAI-ES",
    source="Salimans et al. 2017, arXiv:1703.03864: mirrored noise, centred ranks, Adam; L2 of the authors' code",
    when="Hundreds of parameters and more, where each moves the score a little; CMA-ES is thriftier below that.",
)
class OpenAiEs(Strategy[OpenAiEsOptions]):
    """Evolution strategies as gradient ascent; the first candidate of all is the start itself."""

    def __init__(self, start: np.ndarray, seed: int, options: OpenAiEsOptions) -> None:
        import numpy as np

        super().__init__(start, seed, options)
        self.mean = self.start.copy()
        self.pairs = -(-(options.population or default_population(self.dimensions)) // 2)
        self._first_moment, self._second_moment = np.zeros_like(self.mean), np.zeros_like(self.mean)

    def _noise(self) -> np.ndarray:
        generator = numpy_generator(self.seed, "openai_es", self.generation)
        return generator.standard_normal((self.pairs, self.dimensions))

    def _ask(self) -> np.ndarray:
        import numpy as np

        noise = self.options.sigma * self._noise()
        xs: np.ndarray = np.concatenate([self.mean + noise, self.mean - noise]).clip(0, 1)
        if self.generation == 0:
            xs[0] = self.start
        return xs

    def guess(self) -> np.ndarray | None:
        """The point the gradient has led to."""
        return self.mean.clip(0, 1) if self.generation else None

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        import numpy as np

        options = self.options
        noise, ranks = self._noise(), _centred_ranks(fitness)
        weights = ranks[: self.pairs] - ranks[self.pairs :]
        if self.generation == 0:
            # The start took the place of this pair's first half.
            weights[0] = 0.0
        gradient = weights @ noise / (2 * self.pairs * options.sigma) - options.decay * (self.mean - self.start)
        steps = self.generation + 1
        self._first_moment = _BETA_1 * self._first_moment + (1 - _BETA_1) * gradient
        self._second_moment = _BETA_2 * self._second_moment + (1 - _BETA_2) * gradient**2
        first = self._first_moment / (1 - _BETA_1**steps)
        second = self._second_moment / (1 - _BETA_2**steps)
        self.mean = (self.mean + options.rate * first / (np.sqrt(second) + _EPSILON)).clip(0, 1)


def _centred_ranks(fitness: np.ndarray) -> np.ndarray:
    """Ranks from -1/2 to 1/2; equal ones share theirs, so that a flat generation moves nothing."""
    import numpy as np

    if len(fitness) < 2:
        return np.zeros(len(fitness))
    _, groups, counts = np.unique(fitness, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts + 1) / 2
    ranks: np.ndarray = middle[groups] / (len(fitness) - 1) - 0.5
    return ranks
