"""TENT with a diversity term: predictions are sure, and those of a batch differ."""

from __future__ import annotations

import torch
from pydantic import Field

from genepool.adaptation.adapter import StreamBatch
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.stream_model import entropy, entropy_of


class DiversityOptions(RateOptions):
    """Options of the diversity term."""

    diversity: float = Field(default=0.5, ge=0, description="Weight of the entropy of the mean prediction; ours.")


class DiverseEntropy(GradientAdapter):
    """min mean_i H(p_i) - w H(mean_i p_i) over the norm layers."""

    name = "diversity"
    source = "Krause et al., NIPS 2010; at test time: Liang et al. (SHOT), arXiv:2002.08546. The weight is ours"
    when = "the classes of a batch are many. It is the cheapest cure of TENT's collapse"
    trains = "norm"
    needs = frozenset({"several examples"})
    order = "It is misled where the labels of a batch are all alike."
    Options = DiversityOptions

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        assert isinstance(self.options, DiversityOptions)
        spread = entropy_of(logits.softmax(-1).mean(0))
        value = entropy(logits).mean() - self.options.diversity * spread
        return StreamLoss(value, torch.ones(len(batch), dtype=torch.bool))
