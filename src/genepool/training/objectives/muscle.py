"""A compatible update: a new version that stays right where the old one was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.divergences import kullback_leibler
from genepool.training.objectives import TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class Muscle(TargetObjective):
    """KL from the old version where the model predicts a wrong token, else KL from the new version it began as.

    The base is the new version, the teacher the old one.
    """

    name = "muscle"
    source = "Echterhoff et al., MUSCLE: A Model Update Strategy for Compatible LLM Evolution, arXiv:2407.09435"
    when = "a new version breaks answers that users of the old one rely on"
    needs_teacher = True

    @property
    def needs_reference(self) -> bool:
        return True

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        import torch

        assert teacher is not None
        assert reference is not None
        with torch.no_grad():
            old = teacher.answer_logits(batch).log_softmax(-1).to(model.device)
            new = reference.answer_logits(batch).log_softmax(-1)
        logs = model.answer_logits(batch).log_softmax(-1)
        wrong = logs.argmax(-1) != batch.targets.to(logs.device)
        return kullback_leibler(torch.where(wrong.unsqueeze(-1), old, new), logs)
