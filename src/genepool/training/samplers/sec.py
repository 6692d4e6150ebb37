"""SEC: a self-evolving curriculum, a bandit whose reward is how much there is to learn from an arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool.training.samplers import Sampler, SamplerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


class SecOptions(SamplerOptions):
    """Options of SEC."""

    rate: float = Field(
        default=0.5, gt=0, le=1, description="How much of Q the newest step decides (authors' runs: 0.5)."
    )
    temperature: float = Field(
        default=1.0, gt=0, le=1000, description="Of the softmax over Q (authors' runs: 1, 0.4 and 0.2)."
    )
    undrawn: Literal["keep", "decay"] = Field(
        default="keep",
        description="Q of a task that a step did not draw stays (the paper), or decays as if nothing had been learned "
        "from it (the code).",
    )


class Sec(Sampler):
    """Q <- rate R + (1 - rate) Q, R the mean |advantage| of a task's samples; chances are softmax(Q / temperature).

    Rewards that all agree have no advantage: a task that is always or never solved falls behind.
    """

    name = "sec"
    source = "Chen et al., Self-Evolving Curriculum (arXiv:2505.14970); both forms of what is not drawn"
    when = "Policy gradients on tasks of several difficulties."
    needs = "reward"
    Options = SecOptions
    options: SecOptions

    def __init__(self, options: Any, arms: Any) -> None:
        super().__init__(options, arms)
        self.values = [0.0] * len(arms.names)

    def observe(self, step: int, signals: Mapping[int, float]) -> None:
        rate = self.options.rate
        for arm in range(len(self.values)):
            if arm in signals or self.options.undrawn == "decay":
                self.values[arm] = rate * signals.get(arm, 0.0) + (1 - rate) * self.values[arm]

    def counts(self, step: int, size: int) -> np.ndarray:
        return self.drawn(step, size, self.chances())

    def chances(self) -> np.ndarray:
        """The chance of each task now, (arms,)."""
        import numpy as np

        logits = np.array(self.values) / self.options.temperature
        chances = np.exp(logits - logits.max())
        found: np.ndarray = chances / chances.sum()
        return found
