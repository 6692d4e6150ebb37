"""PANDA: a prompt is learned while its predictions stay near those under another task's prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import ObjectiveOptions, TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class PandaOptions(ObjectiveOptions):
    """Options of `panda`."""

    weight: float = Field(default=0.1, ge=0, description="Of the distance to the teacher (authors' code: 0.1).")
    similarity: float = Field(
        default=1.0, ge=0, le=1, description="How alike the two tasks are, which the weight is multiplied by."
    )


class Panda(TargetObjective):
    """Minus the log-likelihood of each target, plus weight x similarity x the mean squared difference of the logits."""

    name = "panda"
    source = "Zhong et al., PANDA, arXiv:2208.10160; the teacher is asked without dropout, and the mean is taken once"
    when = "a soft prompt begins as that of another task (--form prompt --fork), which is the teacher's"
    needs_teacher = True
    Options: ClassVar[type[ObjectiveOptions]] = PandaOptions

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        import torch

        assert teacher is not None
        assert isinstance(self.options, PandaOptions)
        with torch.no_grad():
            wanted = teacher.answer_logits(batch).to(model.device)
        logits = model.answer_logits(batch)
        targets = batch.targets.to(logits.device).unsqueeze(-1)
        learned = -logits.log_softmax(-1).gather(-1, targets).squeeze(-1)
        weight = self.options.weight * self.options.similarity
        return learned + weight * (logits - wanted).square().mean(-1)
