"""CAMEL: what systems have in common is learned from several of them, and a new one is known by a few numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from genepool.adaptation.system_nets import AffineSystems
from genepool.adaptation.systems_adapter import SystemsAdapter, SystemsOptions


class CamelOptions(SystemsOptions):
    """Options of CAMEL."""

    factors: int = Field(default=3, ge=1, le=256, description="Numbers that a system is known by; ours.")
    steps: int = Field(default=1000, ge=1, le=1_000_000, description="Steps of the training; the authors have 10,000.")
    rate: float = Field(default=5e-3, gt=0, le=10, description="Learning rate of Adam; the authors' code.")
    ridge: float = Field(default=1e-7, gt=0, le=1e6, description="Of the fit along the stream; the authors' code.")


class Camel(SystemsAdapter):
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
    Options = CamelOptions

    def _train(self, past: torch.Tensor, left: torch.Tensor, systems: torch.Tensor) -> None:
        assert isinstance(self.options, CamelOptions)
        self._systems = AffineSystems(self.options.factors, self.options.width, self.seed)
        self._systems.train(past, left, systems, self.options.steps, self.options.rate)
        self._known = self._systems.known
        self._weights = self._known.mean(0)

    def _follow(self, past: torch.Tensor, left: torch.Tensor) -> None:
        assert isinstance(self.options, CamelOptions)
        self._weights = self._systems.weights(past, left, self.options.ridge)

    def _added(self, past: torch.Tensor) -> torch.Tensor:
        return self._systems.predict(past, self._weights)

    def _learned(self) -> dict[str, torch.Tensor]:
        net = {f"net {name}": one for name, one in self._systems.net.items()}
        return {"weights": self._weights, "known": self._known, **net}

    def _put_back(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._weights, self._known = tensors["weights"], tensors["known"]
        self._systems.net = {name: tensors[f"net {name}"] for name in self._systems.net}
