"""Refitting: a forecaster is trained anew, from where it began, on the truth that came last; a control for series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.remembered import Remembered
from genepool.adaptation.stream_model import plain


class RefitOptions(RateOptions):
    """Options of refitting."""

    windows: int = Field(default=64, ge=1, le=100_000, description="Windows of the past that it is trained on; ours.")
    steps: int = Field(default=50, ge=1, le=100_000, description="Steps of Adam of a training; ours.")


class Refit(GradientAdapter):
    """min mean_i (f_i - y_i)^2 over all weights and the last windows whose every step has come, by steps of Adam.

    It begins at the source's weights each time more windows are known.
    """

    name = "refit"
    source = "the control: a model that is trained again and again"
    when = "you want to know what as many labels come to when nothing is saved on time"
    trains = "all"
    needs = frozenset({"late labels"})
    asks = frozenset({"series"})
    order = "Series come in the order of time."
    Options = RefitOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert isinstance(self.options, RefitOptions)
        super()._prepare(source)
        self._start = plain(self._parameters)
        self._past = Remembered(self.options.windows, self.model)

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.model.predictions(batch.inputs)

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        """Nothing can be learned from a batch whose truth has not come."""
        return StreamLoss(None, torch.zeros(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, RefitOptions)
        if self._past.take(late):
            inputs, truth = self._past.inputs(self.model), self._past.truth.to(self.model.device)
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(self._start[name])
            self.optimiser.state.clear()
            for _ in range(self.options.steps):
                self.follow(torch.nn.functional.mse_loss(self.model.forecast(inputs), truth))
        return Signals.all_alike(len(batch), kept=False)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**super()._tensors(), **self._past.tensors()}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        own = self._past.restore(tensors)
        super()._restore({name: one for name, one in tensors.items() if name not in own}, values)
