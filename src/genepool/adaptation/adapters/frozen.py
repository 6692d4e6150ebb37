"""Doing nothing: the model as it was trained, which every adapter is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.adaptation.adapter import Answered, Signals, StreamAdapter, StreamBatch

if TYPE_CHECKING:
    import torch


class Frozen(StreamAdapter):
    """Predicts with the model as it is and learns nothing."""

    name = "frozen"
    source = "the control"
    when = "you want the scores of the model alone along a stream"
    trains = "nothing"
    asks = frozenset({"classes", "series"})
    order = "It does not matter."

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.model.predictions(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        return Signals.all_alike(len(batch), kept=False)
