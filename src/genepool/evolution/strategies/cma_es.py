"""CMA-ES: the published search for merge parameters, on the library pycma.

Uses pycma for the algorithm and nothing else of it: its file logging, its signals file and its global seeding are
off. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, default_population, register
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np

# pycma, measured: at 500 dimensions a generation costs 22 ms with the full matrix and 1.3 ms with the diagonal.
FULL_UP_TO = 300


class CmaEsOptions(StrategyOptions):
    """Options of CMA-ES; the defaults are those of evolutionary model merging (Akiba et al. 2024, section 4)."""

    sigma: float = Field(default=1 / 6, gt=0, le=1, description="First step size, in widths of the search range.")
    population: Count | None = Field(
        default=None, ge=4, description="Candidates a generation; null is 4 + floor(3 ln d)."
    )
    covariance: Literal["auto", "full", "diagonal"] = Field(
        default="auto",
        description=f"Learn the full covariance or its diagonal; auto is full up to {FULL_UP_TO} dimensions.",
    )
    restart: bool = Field(
        default=True,
        description="After convergence, start again at a random point with twice the population (IPOP).",
    )


@register(
    "cma_es",
    title="CMA-ES",
    source="Hansen 2016, arXiv:1604.00772; defaults of Akiba et al. 2024, arXiv:2403.13187: start 0.5, sigma 1/6, "
    "population 4 + floor(3 ln d); restarts of Auger & Hansen 2005 (IPOP); library pycma",
    when="The first choice for 2 to a few hundred merge parameters, from about ten generations of budget upward.",
)
class CmaEs(Strategy[CmaEsOptions]):
    """CMA-ES inside the unit cube.

    The very first candidate is the start point itself, which CMA-ES alone would never score: whoever names a start
    wants to know what it is worth, and a search must not end below it. It counts like any other candidate.

    Example:
        >>> import numpy as np
        >>> search = CmaEs(np.full(3, 0.5), seed=0, options=CmaEsOptions())
        >>> for _ in range(40):
        ...     xs = search.ask()
        ...     search.tell(xs, -((xs - 0.2) ** 2).sum(axis=1))
        >>> bool(abs(search.ask() - 0.2).max() < 0.05)
        True
    """

    libraries = ("numpy", "cma")

    def __init__(self, start: np.ndarray, seed: int, options: CmaEsOptions) -> None:
        super().__init__(start, seed, options)
        self.restarts = 0
        self._first = True
        #: Best fitness and mean of the best search that has ended.
        self._settled: tuple[float, np.ndarray] | None = None
        self._search = self._new_search(self.start)

    def _new_search(self, mean: np.ndarray) -> Any:
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma announces that matplotlib is missing
            import cma

        options = self.options
        diagonal = options.covariance == "diagonal" or (options.covariance == "auto" and self.dimensions > FULL_UP_TO)
        generator = numpy_generator(self.seed, "cma_es", self.restarts)
        return cma.CMAEvolutionStrategy(
            mean,
            options.sigma,
            {
                "bounds": [0, 1],
                "popsize": (options.population or default_population(self.dimensions)) * 2**self.restarts,
                "CMA_diagonal": diagonal,
                # NaN means "seed nothing"; every draw then comes from our own generator.
                "seed": np.nan,
                "randn": lambda *shape: generator.standard_normal(shape),
                "verbose": -9,
                "signals_filename": "",
                # In one dimension pycma 4.5 fails when a step size reaches its limit; without one it does not.
                "maxstd": np.inf if self.dimensions == 1 else None,
                # Accuracies come in steps, so one flat generation is no convergence; ten in a row are.
                "tolflatfitness": 10,
                # Steps below a ten-thousandth of the range: no merge feels them, so the rest of the budget goes
                # to a restart (pycma's own 1e-11 would spend it on the last digits).
                "tolx": 1e-4,
                "tolfun": 0,
                "tolfunhist": 0,
                "maxiter": np.inf,
            },
        )

    def _ask(self) -> np.ndarray:
        import numpy as np

        options = self.options
        if options.restart and self._search.countiter and self._search.stop():
            self.restarts += 1
            self._settled = self._favourite()
            self._search = self._new_search(
                numpy_generator(self.seed, "cma_es", "restart", self.restarts).uniform(size=self.dimensions)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            xs = np.array(self._search.ask(), dtype=np.float64).reshape(-1, self.dimensions)
        if self._first:
            xs[0] = self.start
        return xs.clip(0, 1)

    def guess(self) -> np.ndarray | None:
        """The mean of the distribution, which CMA-ES's author prefers over the best sample under noise.

        Of several searches, that of the one that found the best: a restart's mean is anywhere at first.
        """
        favourite = self._favourite()
        return None if favourite is None else favourite[1]

    def _favourite(self) -> tuple[float, np.ndarray] | None:
        import numpy as np

        if self._search.countiter == 0:
            return self._settled
        result = self._search.result
        if self._settled is not None and -result.fbest <= self._settled[0]:
            return self._settled
        return -float(result.fbest), np.asarray(result.xfavorite, dtype=np.float64).clip(0, 1)

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._search.tell(list(xs), [-float(value) for value in fitness])
        self._first = False
