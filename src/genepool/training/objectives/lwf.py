"""Learning without forgetting: the answers are learned while the predictions of the model as it began are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.divergences import kullback_leibler
from genepool.training.objectives import ObjectiveOptions, TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class LwfOptions(ObjectiveOptions):
    """Options of `lwf`."""

    weight: float = Field(default=1.0, ge=0, description="Of keeping the old predictions, beside the likelihood.")
    temperature: float = Field(default=2.0, gt=0, le=100, description="Softens both predictions that are compared.")


class Lwf(TargetObjective):
    """Minus the log-likelihood of each target, plus the KL from the model as it began, both at a temperature."""

    name = "lwf"
    source = "Li and Hoiem, Learning without Forgetting, arXiv:1606.09282: weight 1, temperature 2"
    when = "a task is learned from answers, and what the model predicted before must stay likely"
    Options: ClassVar[type[ObjectiveOptions]] = LwfOptions

    @property
    def needs_reference(self) -> bool:
        return True

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        import torch

        assert reference is not None
        assert isinstance(self.options, LwfOptions)
        heat = self.options.temperature
        with torch.no_grad():
            before = (reference.answer_logits(batch) / heat).log_softmax(-1)
        logits = model.answer_logits(batch)
        targets = batch.targets.to(logits.device).unsqueeze(-1)
        learned = -logits.log_softmax(-1).gather(-1, targets).squeeze(-1)
        return learned + self.options.weight * kullback_leibler(before, (logits / heat).log_softmax(-1))
