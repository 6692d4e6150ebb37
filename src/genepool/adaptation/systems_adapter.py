"""Adapters that learn before the stream of several systems, and along it follow the one at hand.

The frozen forecaster stays; what a net of theirs says is added to its forecast. Uses `remembered`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
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
from genepool.tasks.models.forecaster import SERIES


class SystemsOptions(AdapterOptions):
    """Options that all adapters which learn of several systems have."""

    width: int = Field(default=64, ge=1, le=4096, description="Hidden units of the net; ours.")
    windows: int = Field(default=64, ge=1, le=100_000, description="Last windows that are learned from; ours.")
    parts: int = Field(
        default=8,
        ge=2,
        le=1000,
        description="Into so many parts is a source of one domain cut, which stand for systems; ours.",
    )


class SystemsAdapter(StreamAdapter):
    """y = F(x) + f(x): F is the frozen forecaster, f a net's, which reads a window less its last value."""

    trains = "added"
    needs = frozenset({"source examples", "late labels"})
    asks = frozenset({"series"})
    order = "Series come in the order of time."

    @abstractmethod
    def _train(self, past: torch.Tensor, left: torch.Tensor, systems: torch.Tensor) -> None:
        """Learns before the stream.

        Args:
            past: windows of the source, less their last value, shape (n, width).
            left: what the frozen forecaster leaves of what followed them, shape (n, values).
            systems: the number of the system that each is of, shape (n,).
        """

    @abstractmethod
    def _follow(self, past: torch.Tensor, left: torch.Tensor) -> None:
        """Learns of the last windows whose every step has come; arguments as for `_train`."""

    @abstractmethod
    def _added(self, past: torch.Tensor) -> torch.Tensor:
        """What is added to the forecast after these windows, shape (n, values)."""

    @abstractmethod
    def _learned(self) -> dict[str, torch.Tensor]:
        """What `_train` and `_follow` learned, by name."""

    @abstractmethod
    def _put_back(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes what `_learned` gave; names and shapes are right."""

    def _prepare(self, source: SourceExamples | None) -> None:
        assert source is not None
        assert isinstance(self.options, SystemsOptions)
        self._past = Remembered(self.options.windows, self.model)
        self._train(*what_is_left(self.model, source, self.options.parts))

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            forecast = self.model.forecast(inputs)
            return (forecast + self._added(changes(inputs.whole(SERIES))).view(forecast.shape)).cpu()

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        if self._past.take(late):
            self._follow(*left_of(self.model, self._past))
        return Signals.all_alike(len(batch), kept=False)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**self._learned(), **self._past.tensors()}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._past.restore(tensors)
        learned = self._learned()
        for name, like in learned.items():
            check_shape(name, tensors[name], like)
        self._put_back({name: tensors[name].to(self.model.device, copy=True) for name in learned})
