"""The distance to a teacher: the model learns to predict what another model predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.batches import answer_logits
from genepool.training.objectives import Objective

if TYPE_CHECKING:
    import torch

    from genepool.tasks import LanguageModel
    from genepool.training.batches import Batch


class Distance(Objective):
    """The Kullback-Leibler divergence KL(teacher || model), in nats, at each token of the answers."""

    name = "distance"
    source = "Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531, at temperature 1"
    when = "another model is good at the task: distillation"
    needs_teacher = True

    def losses(self, model: LanguageModel, batch: Batch, teacher: LanguageModel | None = None) -> torch.Tensor:
        import torch

        assert teacher is not None
        with torch.no_grad():
            wanted = answer_logits(teacher, batch).log_softmax(-1).to(model.device)
        logs = answer_logits(model, batch).log_softmax(-1)
        return (wanted.exp() * (wanted - logs)).sum(-1)
