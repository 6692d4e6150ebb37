"""CUBER: TRGP, and where a new task pulls the weights of an earlier one the way that one would go, they move."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.continual.memory import Memory
from genepool.training.learners import LearnerOptions
from genepool.training.learners.trgp import Trgp, TrgpOptions

if TYPE_CHECKING:
    import torch


class CuberOptions(TrgpOptions):
    """Options of `cuber`."""

    related: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of the norm of a task's first gradient that must lie in the space of an earlier task, "
        "layer by layer, for that task to be related.",
    )
    agreement: float = Field(
        default=0.0,
        ge=-1,
        lt=1,
        description="The cosine between a related task's last gradient and the first one of the new task from which on "
        "the related task's weights move too.",
    )
    hold: float = Field(
        default=1.0, ge=0, description="Of the squared change of the weights in the space of tasks whose weights move."
    )


class Cuber(Trgp):
    """In each layer an earlier task falls into one of three regimes, by the first gradient g of the new task.

    1. Little of g lies in its space (`||g S S^T|| < related ||g||`): W moves outside of the space alone, as in GPM.
    2. Much does, and the gradient that the earlier task ended with points elsewhere: W moves outside of the space, and
       the new task scales the earlier one's weights, as in TRGP.
    3. Much does, and both gradients agree (`<g_old, g> >= agreement ||g_old|| ||g||`): W moves inside of the space too,
       so that the earlier task changes with the new one, and may become better. `hold * sum ||(W - W_before) S||^2` is
       added to the loss.

    A direction that belongs to a task of another regime as well is kept. Beside what TRGP keeps, the last gradient of
    each task is kept, as large as the layers.
    """

    name = "cuber"
    source = (
        "Lin et al., Beyond Not-Forgetting, arXiv:2211.00789: its regimes with related 0.5 and agreement 0, known "
        "second-hand; hold is ours, and energy, tasks and examples as trgp"
    )
    when = "as trgp, and earlier tasks may become better by later ones"
    Options: ClassVar[type[LearnerOptions]] = CuberOptions
    options: CuberOptions

    def _sorted(self, name: str, gradient: torch.Tensor) -> tuple[list[int], list[int]]:
        shares, ask = self._shares(name, gradient), self.options
        near = [task for task, share in shares.items() if share >= ask.related]
        free = [task for task in near if self._agrees(name, task, gradient)]
        scaled = sorted((task for task in near if task not in free), key=lambda task: (-shares[task], task))
        return scaled[: ask.tasks], free

    def _agrees(self, name: str, task: int, gradient: torch.Tensor) -> bool:
        """Whether a task ended with a gradient that points to the same side."""
        old = self.memory.tensors.get(f"gradient:{task}:{name}")
        if old is None:
            return False
        old = old.to(gradient.device)
        return float((old * gradient).sum()) >= self.options.agreement * float(old.norm() * gradient.norm())

    def penalty(self, step: int) -> torch.Tensor | None:
        import torch

        if not self._free or not self.options.hold:
            return None
        terms = []
        for name, space in self._free.items():
            parameter = self.place.parameters[name]
            moved = parameter - self._start[name]
            inside = space.to(moved.dtype)
            part = inside.T @ moved if self._layers[name].inputs_first else moved @ inside
            terms.append(part.square().sum())
        return self.options.hold * torch.stack(terms).sum()

    def begin_task(self) -> None:
        super().begin_task()
        self._start = self.place.start if self._free else {}

    def end_task(self) -> Memory:
        memory = super().end_task()
        gradients = self.place.loss_gradient(self._read())
        kept = {f"gradient:{self.place.number}:{name}": gradients[name] for name in self._layers if name in gradients}
        return Memory({**memory.tensors, **kept}, facts={**memory.facts, "moved": len(self._free)})
