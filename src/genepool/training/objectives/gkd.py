"""Generalised knowledge distillation: a teacher corrects what the student itself writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.divergences import jensen_shannon
from genepool.training.objectives import ObjectiveOptions, OwnAnswers, TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class GkdOptions(ObjectiveOptions):
    """Options of `gkd`."""

    own: float = Field(default=0.5, ge=0, le=1, description="Share of examples that the model answers itself.")
    beta: float = Field(
        default=0.5, ge=0, le=1, description="0: KL from the teacher; 1: KL from the model; between: Jensen-Shannon."
    )
    temperature: float = Field(default=0.9, gt=0, le=100, description="At which the model's own answers are drawn.")


class Gkd(TargetObjective):
    """The generalised Jensen-Shannon divergence from the teacher, in nats, at each token of drawn and given answers.

    beta KL(teacher || m) + (1 - beta) KL(model || m) with m = beta teacher + (1 - beta) model; at 0 and 1 the limits
    KL(teacher || model) and KL(model || teacher).
    """

    name = "gkd"
    source = (
        "Agarwal et al., On-Policy Distillation of Language Models, arXiv:2306.13649; a share of 0.5, beta 0.5 and "
        "temperature 0.9 as in TRL 1.16"
    )
    when = "another model is good at the task, and this one's own mistakes are to be corrected"
    needs_teacher = True
    Options: ClassVar[type[ObjectiveOptions]] = GkdOptions

    @property
    def own_answers(self) -> OwnAnswers | None:
        assert isinstance(self.options, GkdOptions)
        return OwnAnswers(self.options.own, self.options.temperature) if self.options.own else None

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        import torch

        assert teacher is not None
        assert isinstance(self.options, GkdOptions)
        with torch.no_grad():
            wanted = teacher.answer_logits(batch).log_softmax(-1).to(model.device)
        return jensen_shannon(wanted, model.answer_logits(batch).log_softmax(-1), self.options.beta)
