"""TENT: the entropy of the predictions is minimised by the norm layers alone."""

from __future__ import annotations

import torch

from genepool.adaptation.adapter import StreamBatch
from genepool.adaptation.gradient import GradientAdapter, StreamLoss
from genepool.adaptation.stream_model import entropy


class Tent(GradientAdapter):
    """min mean_i H(p_i) over the scales and shifts of the norm layers; batch norms use the batch's statistics.

    In a loop of your own:

        import genepool as gp

        for step in gp.adapt("bed/base", "bed/streams/mixed", adapter="tent", rounds=1):
            print(step.number, step.predicted[:3])
    """

    name = "tent"
    source = "Wang et al., arXiv:2006.10726; optimiser and rate of the authors' code"
    when = "the stream drifts once and is short. Over many batches it collapses to a few classes"
    trains = "norm"
    order = "It collapses sooner where labels come sorted."

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        return StreamLoss(entropy(logits).mean(), torch.ones(len(batch), dtype=torch.bool))
