"""MAML: several systems teach a net where to begin, and a few steps from there lead to the one at hand."""

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
from genepool.adaptation.system_nets import MetaLearned, through
from genepool.tasks.models.forecaster import SERIES


class MamlOptions(AdapterOptions):
    """Options of MAML."""

    width: int = Field(default=64, ge=1, le=4096, description="Hidden units of the net; ours, as for `camel`.")
    steps: int = Field(default=1000, ge=1, le=1_000_000, description="Steps of the training; ours, as for `camel`.")
    rate: float = Field(default=1e-3, gt=0, le=10, description="Learning rate of Adam in the training; the authors.")
    step: float = Field(
        default=0.01, gt=0, le=10, description="How far a step of a system's own goes; the authors, for regression."
    )
    inner: int = Field(default=1, ge=1, le=100, description="Steps of its own in the training; the authors.")
    follow: int = Field(default=10, ge=1, le=10_000, description="Steps of its own on the stream; the authors.")
    windows: int = Field(default=64, ge=1, le=100_000, description="Last windows that are learned from; ours.")
    parts: int = Field(
        default=8, ge=2, le=1000, description="Into so many parts is a source of one domain cut, as for `camel`."
    )


class Maml(StreamAdapter):
    """y = F(x) + f(x; th): F is the frozen forecaster, and th follows from a start th0 by a few steps of descent.

    Before the stream th0 is trained so that th0 less a times the gradient of the squared error on some windows of a
    system has a small error on others of it, on the mean over the domains of the source; with second derivatives. On
    the stream th begins at th0 whenever more windows are known whole, and takes `follow` steps on the last ones. Until
    then it is th0. f reads a window less its last value.
    """

    name = "maml"
    source = "Finn, Abbeel and Levine, Model-Agnostic Meta-Learning, arXiv:1703.03400. That F is beside f is ours"
    when = "you want to know what `camel` is worth: it learns of the same systems, and assumes nothing of them"
    trains = "added"
    needs = frozenset({"source examples", "late labels"})
    asks = frozenset({"series"})
    order = "Series come in the order of time."
    Options = MamlOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert source is not None
        assert isinstance(self.options, MamlOptions)
        options = self.options
        past, left, systems = what_is_left(self.model, source, options.parts)
        self._past = Remembered(options.windows, self.model)
        self._learned = MetaLearned(options.width, options.step, self.seed)
        self._learned.train(past, left, systems, options.steps, options.rate, options.inner)
        self._net = self._learned.start

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            forecast = self.model.forecast(inputs)
            moved = through(self._net, changes(inputs.whole(SERIES)))
            return (forecast + moved.view(forecast.shape)).cpu()

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, MamlOptions)
        if self._past.take(late):
            self._net = self._learned.adapted(*left_of(self.model, self._past), self.options.follow)
        return Signals.all_alike(len(batch), kept=False)

    def _tensors(self) -> dict[str, torch.Tensor]:
        nets = (("start", self._learned.start), ("net", self._net))
        return {f"{which} {name}": one for which, net in nets for name, one in net.items()} | self._past.tensors()

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._past.restore(tensors)
        found: list[dict[str, torch.Tensor]] = []
        for which in ("start", "net"):
            for name, like in self._learned.start.items():
                check_shape(f"{which} {name}", tensors[f"{which} {name}"], like)
            device, names = self.model.device, self._learned.start
            found.append({name: tensors[f"{which} {name}"].to(device, copy=True) for name in names})
        self._learned.start, self._net = found
