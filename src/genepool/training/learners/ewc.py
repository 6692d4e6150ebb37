"""Elastic weight consolidation, online: parameters that mattered for earlier tasks are held where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.seeding import numpy_generator
from genepool.training.continual.memory import Memory
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

_FISHER, _ANCHOR = "fisher:", "anchor:"


class EwcOptions(LearnerOptions):
    """Options of `ewc`."""

    weight: float = Field(default=100.0, ge=0, description="Of the penalty.")
    decay: float = Field(
        default=1.0, ge=0, le=1, description="What the Fisher information of earlier tasks is multiplied with."
    )
    examples: int = Field(
        default=128, ge=1, description="Training examples of each task that its Fisher information is estimated from."
    )


class Ewc(TaskLearner):
    """Adds `weight * sum F (theta - theta*)^2`, theta* being the parameters after the task before.

    F is the mean over examples of the squared gradient of the log-likelihood of the right answer (the empirical Fisher
    information, its diagonal); after a task ``F <- decay F + F_task``.
    """

    name = "ewc"
    source = (
        "Kirkpatrick et al., arXiv:1612.00796; online: Schwarz et al., arXiv:1805.06370, with one running F; decay 1; "
        "weight and examples are ours"
    )
    when = "no example may be kept, and twice the trained parameters may"
    Options: ClassVar[type[LearnerOptions]] = EwcOptions
    options: EwcOptions

    def penalty(self, step: int) -> torch.Tensor | None:
        import torch

        if not self.memory.tensors or not self.options.weight:
            return None
        kept = self._on_device
        terms = [
            (kept[f"{_FISHER}{name}"] * (parameter - kept[f"{_ANCHOR}{name}"]).square()).sum()
            for name, parameter in self.place.parameters.items()
        ]
        return self.options.weight * torch.stack(terms).sum()

    def begin_task(self) -> None:
        device = self.place.model.device
        self._on_device = {name: tensor.to(device) for name, tensor in self.memory.tensors.items()}

    def end_task(self) -> Memory:
        import torch

        place, count = self.place, min(self.options.examples, len(self.place.lessons))
        chosen = numpy_generator(place.seed, "fisher").permutation(len(place.lessons))[:count].tolist()
        found = {name: torch.zeros_like(values) for name, values in place.values.items()}
        for gradients in place.likelihood_gradients([place.lessons[one] for one in chosen]):
            for name, gradient in gradients.items():
                found[name] += gradient.float().square() / count
        for name, total in found.items():
            if (before := self._on_device.get(f"{_FISHER}{name}")) is not None:
                total += self.options.decay * before
        fisher = {f"{_FISHER}{name}": tensor for name, tensor in found.items()}
        return Memory({**fisher, **{f"{_ANCHOR}{name}": values.clone() for name, values in place.values.items()}})
