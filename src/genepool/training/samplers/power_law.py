"""Power-law rehearsal: a task comes back with a chance that falls with the time since it was last practised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.seeding import numpy_generator
from genepool.training.samplers import PlainSamplerOptions, Sampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


class PowerLawOptions(PlainSamplerOptions):
    """Options of power-law rehearsal."""

    exponent: float = Field(default=1.0, ge=0, le=20, description="a in lag^-a; 0 is uniform over tasks (ours: 1).")


class PowerLaw(Sampler):
    """Each step practises one task, drawn with a chance ~ lag^-a, lag the steps since it was last practised.

    Tasks are drawn without quotas: with fixed counts the rare ones would be left over for one long block at the end.
    Before the first step all tasks count as just practised.
    """

    name = "power_law"
    source = "power-law statistics of rehearsal, derived from the text; drawing without quotas is ours"
    when = "Practice as it comes in life: mostly what was just practised, now and then what was long ago."
    Options = PowerLawOptions
    options: PowerLawOptions

    def __init__(self, options: Any, arms: Any) -> None:
        super().__init__(options, arms)
        self._last = [-1] * len(arms.names)

    def observe(self, step: int, signals: Mapping[int, float]) -> None:
        for arm in signals:
            self._last[arm] = step

    def counts(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        chances = self.chances(step)
        arm = numpy_generator(self.arms.seed, "sampler", self.name, step).choice(len(chances), p=chances)
        found = np.zeros(len(chances), dtype=int)
        found[arm] = size
        return found

    def chances(self, step: int) -> np.ndarray:
        """The chance of each task in a step, (arms,)."""
        import numpy as np

        lags = np.array([max(1, step - last) for last in self._last], dtype=float)
        chances = lags**-self.options.exponent
        found: np.ndarray = chances / chances.sum()
        return found
