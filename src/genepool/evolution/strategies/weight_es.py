"""An evolution strategy over the weights themselves, whose noise is kept as seeds.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.evolution.strategies import Breeder, Count, Evidence, StrategyOptions, register
from genepool.evolution.strategies.base import Birth, succeeded
from genepool.seeding import derive

if TYPE_CHECKING:
    import numpy as np


class WeightEsOptions(StrategyOptions):
    """Options of the evolution strategy over weights; the defaults are those of Qiu et al. 2025."""

    population: Count = Field(default=30, ge=2, multiple_of=2, description="Models around the centre, in pairs.")
    sigma: float = Field(default=0.001, gt=0, description="Standard deviation of the noise on every weight.")
    step: float = Field(default=0.0005, gt=0, description="Length of a step; the mean of z-scored noise is times this.")


@register(
    "weight_es",
    title="ES over weights",
    source="Qiu et al. 2025, arXiv:2509.24372 (population 30, sigma 0.001, step 0.0005, z-scored fitness, noise from "
    "seeds); mirrored pairs of Salimans et al. 2017, arXiv:1703.03864",
    when="Fine-tuning one model, or the average of several, without gradients; thousands of evaluations.",
)
class WeightEs(Breeder[WeightEsOptions]):
    """Evolution strategies on the weights themselves.

    The centre is the skills' average (of adapters: factor by factor). Every generation evaluates it and pairs of models
    on either side of it.

    The next centre is the old one moved along each pair's noise, by how much better one side was than the other. No
    noise is ever stored: a model is its centre and a seed.
    """

    # A step is a few millionths of a weight, which bfloat16 would round away generation after generation.
    held = "F32"

    def __init__(self, founders: Sequence[str], tasks: Sequence[str], seed: int, options: WeightEsOptions) -> None:
        super().__init__(founders, tasks, seed, options)
        self._centre = ""
        self._steps: list[float] = []

    def living(self) -> frozenset[str]:
        return frozenset({self._centre} - {""})

    def guess(self) -> Birth | None:
        """Where the last step leads."""
        return self._next() if self._centre else None

    def collection(self) -> list[dict[str, Any]]:
        return []

    def _ask(self) -> list[Birth]:
        options = self.options
        centre = f"{self.generation}.0"
        births = [self._next()]
        for seed in self._seeds(self.generation):
            births += [
                Birth("mutate", (centre,), {"rate": 1.0, "sigma": sign * options.sigma}, seed) for sign in (1, -1)
            ]
        return births

    def _next(self) -> Birth:
        if self._centre:
            settings = {"steps": self._steps, "seeds": self._seeds(int(self._centre.split(".")[0]))}
            return Birth("climb", (self._centre,), settings)
        if len(self.founders) == 1:
            return Birth("copy", self.founders)
        return Birth("mix", self.founders, {"weights": [1 / len(self.founders)] * len(self.founders)})

    def _seeds(self, generation: int) -> list[int]:
        options = self.options
        return [derive(self.seed, "weight_es", generation, pair) for pair in range(options.population // 2)]

    def _tell(
        self, names: Sequence[str], births: Sequence[Birth], fitness: np.ndarray, evidence: Evidence | None
    ) -> None:
        import numpy as np

        options = self.options
        scores = fitness[1:]
        # A pair of which one failed says nothing of where to go; nor does a flat generation.
        alive = np.zeros(len(fitness), dtype=bool)
        alive[succeeded(len(fitness), evidence)] = True
        both = np.repeat(alive[1::2] & alive[2::2], 2)
        spread = float(scores[both].std()) if both.any() else 0.0
        z = np.where(both, (scores - scores[both].mean()) / spread, 0.0) if spread > 0 else 0 * scores
        self._centre, self._steps = names[0], [float(s) for s in options.step * (z[::2] - z[1::2]) / len(scores)]
