"""Momentum interpolation: slow weights follow the trained ones from afar, and are what is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.continual.memory import Memory
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch


class MomentumOptions(LearnerOptions):
    """Options of `momentum`."""

    decay: float = Field(default=0.99, ge=0, lt=1, description="What is kept of the slow weights in each step.")


class MomentumInterpolation(TaskLearner):
    """After every step `slow <- decay * slow + (1 - decay) * fast`; the slow weights are written and asked.

    The fast weights go on from task to task, the slow ones begin as the base. For factors the mean is of each factor,
    not of their product. Beside the model, which is slow, the fast weights are kept.
    """

    name = "momentum"
    source = "Stojanovski et al., Momentum-based Weight Interpolation, arXiv:2211.03186; decay 0.99 is ours"
    when = "one more copy of what is trained may be kept, and nothing else"
    Options: ClassVar[type[LearnerOptions]] = MomentumOptions
    options: MomentumOptions

    def begin_task(self) -> None:
        values = self.place.values
        kept = self.memory.tensors
        self._slow = {name: kept.get(name, fast).to(fast.device).clone() for name, fast in values.items()}

    def after_step(self) -> None:
        for name, fast in self.place.values.items():
            self._slow[name].lerp_(fast, 1 - self.options.decay)

    def deployed(self) -> Mapping[str, torch.Tensor]:
        return self._slow

    def end_task(self) -> Memory:
        return Memory(dict(self._slow))

    def state(self) -> dict[str, torch.Tensor]:
        return dict(self._slow)

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        for name in self._slow:
            self._slow[name] = state[name].to(self._slow[name].device).clone()
