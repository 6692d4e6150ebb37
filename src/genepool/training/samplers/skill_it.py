"""Skill-it: more of the tasks whose loss, and that of the tasks they prepare for, is still high."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError, nearest
from genepool.training.samplers import Sampler, SamplerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


class SkillItOptions(SamplerOptions):
    """Options of Skill-it."""

    eta: float = Field(default=0.5, gt=0, le=100, description="Step size (authors' LEGO: 0.5; others 0.1).")
    window: int = Field(default=3, ge=1, le=1000, description="Checkpoints whose losses are added up (paper: 3).")
    checkpoint: int = Field(default=50, ge=1, le=10**6, description="Steps between two checkpoints (authors' code).")
    edges: tuple[tuple[str, str], ...] = Field(
        default=(), description="Pairs [a, b]: task a prepares for task b. Each counts 0.5; a task for itself counts 1."
    )


class SkillIt(Sampler):
    """p_i ~ exp(eta sum_j A_ij sum over the last checkpoints of L_j), from uniform anew at every checkpoint.

    L_j is the mean loss of task j's training examples since the checkpoint before; the authors ask a validation set.
    """

    name = "skill_it"
    source = "Chen et al., Skill-it! (arXiv:2307.14430); edges of 0.5 as in the authors' code"
    when = "Tasks of which some prepare for others, and how is known."
    needs = "loss"
    Options = SkillItOptions
    options: SkillItOptions

    def check(self) -> None:
        for edge in self.options.edges:
            for name in edge:
                if name not in self.arms.names:
                    raise InputError(
                        f"'{name}' is no task of this training",
                        where="sampler_options.edges",
                        fix=nearest(name, self.arms.names),
                    )

    def __init__(self, options: Any, arms: Any) -> None:
        super().__init__(options, arms)
        self._sums: dict[int, list[float]] = {}
        self._past: list[list[float]] = []
        self._last = [math.nan] * len(arms.names)

    def observe(self, step: int, signals: Mapping[int, float]) -> None:
        for arm, loss in signals.items():
            self._sums.setdefault(arm, []).append(loss)
        if (step + 1) % self.options.checkpoint == 0:
            for arm, losses in self._sums.items():
                self._last[arm] = sum(losses) / len(losses)
            known = [one for one in self._last if not math.isnan(one)]
            # A task that was never drawn is taken to be as hard as the mean of the others.
            mean = sum(known) / len(known) if known else 0.0
            self._past.append([mean if math.isnan(one) else one for one in self._last])
            self._sums = {}

    def counts(self, step: int, size: int) -> np.ndarray:
        return self.drawn(step, size, self.chances())

    def chances(self) -> np.ndarray:
        """The chance of each task now, (arms,)."""
        import numpy as np

        names = self.arms.names
        graph = np.eye(len(names))
        for one, other in self.options.edges:
            graph[names.index(one), names.index(other)] = 0.5 if one != other else 1.0
        losses = np.array(self._past[-self.options.window :]).reshape(-1, len(names)).sum(0)
        logits = self.options.eta * graph @ losses
        chances = np.exp(logits - logits.max())
        found: np.ndarray = chances / chances.sum()
        return found
