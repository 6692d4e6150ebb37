"""Quasi-random search: points that fill the cube evenly, a baseline a little harder to beat than random search.

Uses scipy's Sobol sequence. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, default_population, register
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np


class QuasiRandomOptions(StrategyOptions):
    """Options of quasi-random search."""

    population: Count | None = Field(
        default=None,
        ge=1,
        description="Candidates a generation; null is 4 + floor(3 ln d). It does not change the search.",
    )


@register(
    "quasi_random",
    source="Sobol 1967, scrambled as in Owen 1998; for settings Bergstra & Bengio 2012, section 5; library scipy",
    when="An honest baseline, and a good use of a budget too small to learn from (fewer than ten points a parameter).",
)
class QuasiRandom(Strategy[QuasiRandomOptions]):
    """Points of a scrambled Sobol sequence; the first candidate is the start."""

    libraries = ("numpy", "scipy")
    steady = True

    def __init__(self, start: np.ndarray, seed: int, options: QuasiRandomOptions) -> None:
        super().__init__(start, seed, options)
        self._points: Any = None

    def _ask(self) -> np.ndarray:
        import numpy as np

        if self._points is None:
            from scipy.stats import qmc

            self._points = qmc.Sobol(self.dimensions, rng=numpy_generator(self.seed, "quasi_random"))
        count = self.options.population or default_population(self.dimensions)
        with warnings.catch_warnings():
            # Balance at powers of two is for integrals; a search takes what it can pay for.
            warnings.simplefilter("ignore")
            xs = np.asarray(self._points.random(count), dtype=np.float64)
        if self.generation == 0:
            xs[0] = self.start
        return xs

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        """There is nothing to learn."""
