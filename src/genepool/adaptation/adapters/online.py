"""Learning from labels as they come: the control that every adapter without labels may be held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genepool.adaptation.adapter import Answered, Signals, StreamBatch
from genepool.adaptation.gradient import GradientAdapter, StreamLoss


class Online(GradientAdapter):
    """min mean_i -ln p_ic over all weights, a step of Adam for each batch whose labels c have come.

    Of a series min mean_i (f_i - y_i)^2, for each batch whose every step y has come.
    """

    name = "online"
    source = "the control: supervised learning, online"
    when = "labels come late. It shows what they are worth"
    trains = "all"
    needs = frozenset({"late labels"})
    asks = frozenset({"classes", "series"})
    order = "It forgets where labels come sorted."

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.model.predictions(batch.inputs)

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        """Nothing can be learned from a batch whose labels have not come."""
        return StreamLoss(None, torch.zeros(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        kept = torch.zeros(len(batch), dtype=torch.bool)
        for one in late:
            if self.model.forecasts:
                if one.whole:
                    forecast = self.model.forecast(one.batch.inputs)
                    self.follow(torch.nn.functional.mse_loss(forecast, one.targets.to(forecast.device)))
                continue
            told = one.targets >= 0
            if bool(told.any()):
                logits = self.model.logits(one.batch.inputs)[told]
                self.follow(torch.nn.functional.cross_entropy(logits, one.targets[told].to(logits.device)))
            if one.batch.number == batch.number:
                kept = told
        return StreamLoss(None, kept).signals()
