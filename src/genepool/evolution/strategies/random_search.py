"""Random search: the honest baseline any other strategy has to beat at equal budget.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, default_population, register
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np


class RandomSearchOptions(StrategyOptions):
    """Options of random search."""

    population: Count | None = Field(
        default=None,
        ge=1,
        description="Candidates a generation; null is CMA-ES's 4 + floor(3 ln d), for comparable curves.",
    )


@register(
    "random_search",
    source="Bergstra & Bengio 2012, JMLR 13: uniform over the search ranges",
    when="As the baseline at equal budget, and when there is no time for more than one or two generations.",
)
class RandomSearch(Strategy[RandomSearchOptions]):
    """Uniform draws from the unit cube; learns nothing.

    The very first candidate is the start point, as in CMA-ES here, so that neither has an advantage from knowing it.
    """

    steady = True

    def _ask(self) -> np.ndarray:
        options = self.options
        shape = (options.population or default_population(self.dimensions), self.dimensions)
        xs = numpy_generator(self.seed, "random_search", self.generation).uniform(size=shape)
        if self.generation == 0:
            xs[0] = self.start
        return xs

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        """There is nothing to learn."""
