"""The likelihood of the answers: ordinary supervised fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.batches import answer_likelihoods
from genepool.training.objectives import TargetObjective, Teacher

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch


class Likelihood(TargetObjective):
    """Minus the log-likelihood of each token of the right answer: cross-entropy."""

    name = "likelihood"
    source = "maximum likelihood; Wei et al., Finetuned Language Models Are Zero-Shot Learners, arXiv:2109.01652"
    when = "there are right answers: supervised fine-tuning"

    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        return -answer_likelihoods(model, batch)[0]
