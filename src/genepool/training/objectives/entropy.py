"""The entropy of the predictions: needs no labels, sharpens what the model already holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.training.batches import answer_logits
from genepool.training.objectives import Objective

if TYPE_CHECKING:
    import torch

    from genepool.tasks import LanguageModel
    from genepool.training.batches import Batch


class Entropy(Objective):
    """The entropy, in nats, of the prediction at each token of the answers."""

    name = "entropy"
    source = "Grandvalet and Bengio, NIPS 2004; at test time: Wang et al. (TENT), arXiv:2006.10726"
    when = "there are no labels and the model is mostly right; it makes sure mistakes surer as well"

    def losses(self, model: LanguageModel, batch: Batch, teacher: LanguageModel | None = None) -> torch.Tensor:
        logs = answer_logits(model, batch).log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)
