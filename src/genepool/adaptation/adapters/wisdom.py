"""Wisdom of crowds: only examples are learned from whose answer the adapted model is at least as sure of."""

from __future__ import annotations

import torch

from genepool.adaptation.adapter import SourceExamples, StreamBatch
from genepool.adaptation.adapters.diversity import DiversityOptions
from genepool.adaptation.filters import agreeing
from genepool.adaptation.gradient import GradientAdapter, StreamLoss
from genepool.adaptation.stream_model import entropy, entropy_of


class Wisdom(GradientAdapter):
    """Examples count whose answer the adapted model believes at least as much as the source did.

    With c_i the answer of the source, p0 its prediction, and K = {i: p_i[c_i] >= p0_i[c_i]}:
    min mean_{i in K} H(p_i) - w H(mean_i p_i) over the norm layers. Nothing is learned from a batch without a K.
    """

    name = "wisdom"
    source = "Lee et al., Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds, ICCV 2023"
    when = "the stream also holds what the model knows nothing of"
    trains = "norm"
    needs = frozenset({"several examples"})
    order = "It suffers less than others where labels come sorted."
    Options = DiversityOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        # Before the norms are told to learn: the source stays as it was trained.
        self._source = self.model.copy()
        super()._prepare(source)

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        assert isinstance(self.options, DiversityOptions)
        with torch.no_grad():
            before = self._source.logits(batch.inputs).softmax(-1)
        probabilities = logits.softmax(-1)
        kept = agreeing(probabilities.detach(), before)
        if not bool(kept.any()):
            return StreamLoss(None, kept)
        value = entropy(logits)[kept].mean() - self.options.diversity * entropy_of(probabilities.mean(0))
        return StreamLoss(value, kept)
