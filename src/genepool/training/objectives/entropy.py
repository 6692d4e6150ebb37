"""The entropy of the predictions: needs no labels, sharpens what the model already holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.objectives import TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class Entropy(TargetObjective):
    """The entropy, in nats, of the prediction at each target of the answers."""

    name = "entropy"
    source = "Grandvalet and Bengio, NIPS 2004; at test time: Wang et al. (TENT), arXiv:2006.10726"
    when = "there are no labels and the model is mostly right. It also strengthens confident mistakes"

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        logs = model.answer_logits(batch).log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)
