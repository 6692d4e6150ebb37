"""O-LoRA: every task gets factors of its own, in a subspace that is orthogonal to those of the tasks before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.continual.memory import Memory
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch


class OLoraOptions(LearnerOptions):
    """Options of `o_lora`."""

    weight: float = Field(default=0.5, ge=0, description="Of the overlap with the factors of earlier tasks.")
    norm: float = Field(default=0.0, ge=0, description="Of the norms of the new factors.")


class OLora(TaskLearner):
    """Adds the overlap of the new factors' inputs with those of earlier tasks, whose factors stay as they are.

    The penalty is ``weight * sum |A_old A_new^T| + norm * sum ||factor||``. A_old, shape (rank of all earlier tasks,
    inputs), is all that is kept. The overlap is the sum of absolute values, as
    the authors' code has it; their paper squares them.
    """

    name = "o_lora"
    source = "Wang et al., arXiv:2310.14152; weights 0.5 and 0 as the authors' code"
    when = "factors are trained, and no example may be kept"
    factors_only = True
    Options: ClassVar[type[LearnerOptions]] = OLoraOptions
    options: OLoraOptions

    @property
    def fresh_factors(self) -> bool:
        return True

    def begin_task(self) -> None:
        device = self.place.model.device
        self._old = {name: tensor.to(device) for name, tensor in self.memory.tensors.items()}

    def penalty(self, step: int) -> torch.Tensor | None:
        import torch

        factors, terms = self.place.parameters, []
        if self.options.weight and self._old:
            overlaps = [(old @ factors[name].T).abs().sum() for name, old in self._old.items()]
            terms.append(self.options.weight * torch.stack(overlaps).sum())
        if self.options.norm:
            norms = [factor.norm() for name, factor in factors.items() if "lora_" in name]
            terms.append(self.options.norm * torch.stack(norms).sum())
        return torch.stack(terms).sum() if terms else None

    def end_task(self) -> Memory:
        import torch

        found = {}
        for name, values in self.place.values.items():
            if "lora_A" in name:
                found[name] = torch.cat([self._old[name], values]) if name in self._old else values.clone()
        return Memory(found)
