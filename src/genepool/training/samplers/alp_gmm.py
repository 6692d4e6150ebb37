"""ALP-GMM: examples where scores move, up or down: a mixture of Gaussians over parameters and learning progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from genepool.training.gaussian_mixture import MixedGaussians, fitted, started
from genepool.training.samplers.parameters import ParameterOptions, ParameterSampler

if TYPE_CHECKING:
    import numpy as np

# Before so many examples there is no nearest one to compare with (authors' code).
_ALONE = 5


class AlpGmmOptions(ParameterOptions):
    """Options of ALP-GMM."""

    window: int = Field(
        default=250,
        ge=10,
        le=100_000,
        description="Examples between two fits; the last ones that a fit is of; and the first ones, which are drawn at "
        "random (authors' code: 250).",
    )
    smallest: int = Field(default=2, ge=1, le=50, description="The fewest Gaussians that are tried (authors' code: 2).")
    largest: int = Field(default=10, ge=1, le=50, description="The most Gaussians that are tried (authors' code: 10).")
    random: float = Field(default=0.2, ge=0, le=1, description="Part of the examples drawn at random (paper: 0.2).")

    @model_validator(mode="after")
    def _ordered(self) -> AlpGmmOptions:
        if self.smallest > self.largest:
            raise ValueError(f"`smallest` is {self.smallest}, above `largest`, {self.largest}. Write the smaller first")
        if self.largest > self.window:
            raise ValueError(f"`largest` is {self.largest}, above `window`, {self.window}. Write a larger window")
        return self


class AlpGmm(ParameterSampler):
    """Draws a Gaussian in proportion to its mean learning progress, and of it a point.

    The absolute learning progress (ALP) of an example is by how much its score differs from that of the nearest earlier
    one; of equally near ones the latest counts, as parameters are often whole numbers here. Every `window` examples,
    mixtures with each number of Gaussians are fitted to the last ones as (parameters, ALP), and the one with the
    smallest AIC is taken.
    """

    name = "alp_gmm"
    source = "Portelas et al., Teacher algorithms (arXiv:1910.07224), as in the authors' code; parameters from 0 to 1"
    when = "Examples with numbers that say how hard they are, some too easy and some out of reach."
    Options = AlpGmmOptions

    def __init__(self, options: Any, arms: Any) -> None:
        super().__init__(options, arms)
        self._seen: np.ndarray | None = None
        self._scores: list[float] = []
        self._progress: list[float] = []
        #: The mixtures that were fitted, each with the number of examples before it.
        self.fits: list[tuple[int, MixedGaussians]] = []

    # ------------------------------------------------------------------ what is observed

    def learn(self, step: int, points: np.ndarray, values: np.ndarray) -> None:
        for point, score in zip(points, values.tolist(), strict=True):
            self.observe_one(point, score)

    def observe_one(self, point: np.ndarray, score: float) -> None:
        """Takes in one example."""
        import numpy as np

        count = len(self._scores)
        if self._seen is None:
            self._seen = np.zeros((1024, len(self.space)))
        elif count == len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros_like(self._seen)])
        progress = 0.0
        if count > _ALONE:
            apart = ((self._seen[:count] - point) ** 2).sum(1)[::-1]
            progress = abs(score - self._scores[count - 1 - int(apart.argmin())])
        self._seen[count] = point
        self._scores.append(score)
        self._progress.append(progress)
        if (count + 1) % self.options.window == 0:
            self.fits.append((count + 1, self._fit(count + 1)))

    def _fit(self, count: int) -> MixedGaussians:
        import numpy as np

        assert self._seen is not None
        window = self.options.window
        rows = np.column_stack([self._seen[count - window : count], self._progress[-window:]])
        tried = [
            fitted(rows, started(rows, components, self.generator("fit", count, components)))
            for components in range(self.options.smallest, self.options.largest + 1)
        ]
        return min(tried, key=lambda one: one.aic(rows))

    # ------------------------------------------------------------------ what is proposed

    @property
    def randomness(self) -> float:
        """The part of the next examples that is drawn at random; all of them before the first fit."""
        return float(self.options.random) if self.fits else 1.0

    def gaussians(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and covariances that points are drawn of, the learning progress being their last dimension."""
        mixture = self.fits[-1][1]
        return mixture.means, mixture.covariances

    def points(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        generator = self.generator("points", step)
        found = self.space.random(generator, size)
        chosen = np.flatnonzero(generator.random(size) >= self.randomness)
        if len(chosen):
            means, covariances = self.gaussians()
            # A mean of absolute values is never below 0, but a fit may come out below it by rounding.
            progress = np.maximum(means[:, -1], 0)
            chances = progress / progress.sum() if progress.sum() > 0 else None
            for place, at in zip(chosen, generator.choice(len(means), len(chosen), p=chances), strict=True):
                point = generator.multivariate_normal(means[at], covariances[at], method="cholesky")[:-1]
                found[place] = np.clip(point, 0, 1)
        return found
