"""CAMEL: what systems have in common is learned from several of them, and a new one is known by a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import (
    AdapterOptions,
    Answered,
    Signals,
    SourceExamples,
    StreamAdapter,
    StreamBatch,
    check_shape,
)
from genepool.adaptation.remembered import Remembered, changes, left_of, what_is_left
from genepool.adaptation.stream_model import Inputs
from genepool.adaptation.system_nets import AffineSystems
from genepool.tasks.models.forecaster import SERIES


class CamelOptions(AdapterOptions):
    """Options of CAMEL."""

    factors: int = Field(default=3, ge=1, le=256, description="Numbers that a system is known by; ours.")
    width: int = Field(default=64, ge=1, le=4096, description="Hidden units of the net; ours.")
    steps: int = Field(default=1000, ge=1, le=1_000_000, description="Steps of the training; the authors have 10,000.")
    rate: float = Field(default=5e-3, gt=0, le=10, description="Learning rate of Adam; the authors' code.")
    ridge: float = Field(default=1e-7, gt=0, le=1e6, description="Of the fit along the stream; the authors' code.")
    windows: int = Field(default=64, ge=1, le=100_000, description="Last windows that are fitted to; ours.")
    parts: int = Field(
        default=8,
        ge=2,
        le=1000,
        description="Into so many parts is a source of one domain cut, which stand for systems; ours.",
    )


class Camel(StreamAdapter):
    """y = F(x) + c(x) + w'V(x): F is the frozen forecaster, c and V are a net that all systems share, w is a system's.

    Before the stream c, V and the w of every domain of the source are trained together, by the mean squared error. On
    the stream w alone follows: min |y - F - c - w'V|^2 + l |w|^2 over the last windows whose every step has come, in
    closed form. Until then w is the mean over the source. c and V read a window less its last value.
    """

    name = "camel"
    source = (
        "Blanke and Lelarge, Interpretable Meta-Learning of Physical Systems (CAMEL), arXiv:2312.00477; optimiser and "
        "ridge of the authors' code. That F is beside c is ours"
    )
    when = "the source has several systems of one kind, and the stream another one of them"
    trains = "added"
    needs = frozenset({"source examples", "late labels"})
    asks = frozenset({"series"})
    order = "Series come in the order of time."
    Options = CamelOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert source is not None
        assert isinstance(self.options, CamelOptions)
        past, left, systems = what_is_left(self.model, source, self.options.parts)
        self._past = Remembered(self.options.windows, self.model)
        self._systems = AffineSystems(self.options.factors, self.options.width, self.seed)
        self._systems.train(past, left, systems, self.options.steps, self.options.rate)
        self._known = self._systems.known
        self._weights = self._known.mean(0)

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            forecast = self.model.forecast(inputs)
            moved = self._systems.predict(changes(inputs.whole(SERIES)), self._weights)
            return (forecast + moved.view(forecast.shape)).cpu()

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, CamelOptions)
        if self._past.take(late):
            given, left = left_of(self.model, self._past)
            self._weights = self._systems.weights(given, left, self.options.ridge)
        return Signals.all_alike(len(batch), kept=False)

    def _tensors(self) -> dict[str, torch.Tensor]:
        net = {f"net {name}": one for name, one in self._systems.net.items()}
        return {"weights": self._weights, "known": self._known, **net, **self._past.tensors()}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._past.restore(tensors)
        device = self.model.device
        for name, like in (("weights", self._weights), ("known", self._known)):
            check_shape(name, tensors[name], like)
        self._weights, self._known = (tensors[name].to(device, copy=True) for name in ("weights", "known"))
        net = self._systems.net
        self._systems.net = {name: tensors[f"net {name}"].to(device, copy=True) for name in net}
