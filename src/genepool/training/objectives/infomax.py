"""Infomax: each prediction is sure, and the predictions of a batch differ; needs no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.objectives import TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class Infomax(TargetObjective):
    """The entropy, in nats, of each prediction, minus that of the mean prediction of the batch."""

    name = "infomax"
    source = "Krause et al., NIPS 2010; at test time: Liang et al. (SHOT), arXiv:2002.08546"
    when = "there are no labels and the answers of a batch differ. Unlike entropy it does not collapse to one answer"

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        logs = model.answer_logits(batch).log_softmax(-1)
        mean = logs.exp().mean(0)
        # A class that nothing predicts has a mean of 0, and 0 log 0 is 0.
        spread = -(mean * mean.clamp_min(1e-30).log()).sum()
        return -(logs.exp() * logs).sum(-1) - spread
