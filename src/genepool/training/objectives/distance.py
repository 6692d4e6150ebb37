"""The distance to a teacher: the model learns to predict what another model predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.objectives import TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class Distance(TargetObjective):
    """The Kullback-Leibler divergence from the prediction of the teacher, in nats, at each target of the answers."""

    name = "distance"
    source = "Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531, at temperature 1"
    when = "another model is good at the task: distillation"
    needs_teacher = True

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        import torch

        assert teacher is not None
        with torch.no_grad():
            wanted = teacher.answer_logits(batch).log_softmax(-1).to(model.device)
        logs = model.answer_logits(batch).log_softmax(-1)
        return (wanted.exp() * (wanted - logs)).sum(-1)
