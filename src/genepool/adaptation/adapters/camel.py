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
from genepool.adaptation.remembered import Remembered
from genepool.adaptation.stream_model import Inputs
from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.tasks.models.forecaster import SERIES

# Windows of every task in a step of the training.
_A_TASK = 16


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
        past = torch.cat([one.whole(SERIES).float() for one in source.batches])
        truth = torch.cat(source.targets).to(past.device)
        with torch.no_grad():
            left = truth - torch.cat([self.model.forecast(one) for one in source.batches])
        names = [domain for part in source.domains for domain in part]
        tasks = torch.tensor(systems_of(names, self.options.parts, self.model.title))
        self._past = Remembered(self.options.windows, self.model)
        self._net = self._fresh(past.shape[1] * past.shape[2], left[0].numel())
        self._train(past, left.flatten(1), tasks)

    def _fresh(self, width: int, out: int) -> dict[str, torch.Tensor]:
        """The net before its training."""
        assert isinstance(self.options, CamelOptions)
        hidden, many = self.options.width, (1 + self.options.factors) * out
        found = {}
        for name, rows, columns in (("first", hidden, width), ("second", many, hidden)):
            generator = torch_generator(self.seed, "camel", name)
            drawn = (2 * torch.rand(rows, columns, generator=generator) - 1) * columns**-0.5
            found[name], found[f"{name} bias"] = drawn, torch.zeros(rows)
        return {name: one.to(self.model.device) for name, one in found.items()}

    def _train(self, past: torch.Tensor, left: torch.Tensor, tasks: torch.Tensor) -> None:
        """Trains the net and the weights of the source's systems together."""
        assert isinstance(self.options, CamelOptions)
        count = int(tasks.max()) + 1
        own = [(tasks == task).nonzero().flatten() for task in range(count)]
        weights = torch.randn(count, self.options.factors, generator=torch_generator(self.seed, "camel", "systems"))
        weights = weights.to(past.device).requires_grad_(True)
        for one in self._net.values():
            one.requires_grad_(True)
        optimiser = torch.optim.Adam([*self._net.values(), weights], lr=self.options.rate)
        for step in range(self.options.steps):
            generator = torch_generator(self.seed, "camel", step)
            rows = torch.cat([part[torch.randint(0, len(part), (_A_TASK,), generator=generator)] for part in own])
            common, varying = self._parts(past[rows])
            # Their systems in turn, each for as many windows.
            mine = weights.repeat_interleave(_A_TASK, 0)
            loss = (left[rows] - common - torch.einsum("nk,nkv->nv", mine, varying)).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self._net = {name: one.detach() for name, one in self._net.items()}
        self._known = weights.detach()
        self._weights = self._known.mean(0)

    def _parts(self, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """c, shape (n, values), and V, shape (n, factors, values), of windows."""
        assert isinstance(self.options, CamelOptions)
        given = (past - past[:, -1:]).flatten(1)
        inner = torch.tanh(torch.nn.functional.linear(given, self._net["first"], self._net["first bias"]))
        found = torch.nn.functional.linear(inner, self._net["second"], self._net["second bias"])
        found = found.view(len(past), 1 + self.options.factors, -1)
        return found[:, 0], found[:, 1:]

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            forecast = self.model.forecast(inputs)
            common, varying = self._parts(inputs.whole(SERIES).float())
            moved = common + torch.einsum("k,nkv->nv", self._weights, varying)
            return (forecast + moved.view(forecast.shape)).cpu()

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, CamelOptions)
        if self._past.take(late):
            with torch.no_grad():
                left = self._past.truth.to(self.model.device) - self.model.forecast(self._past.inputs(self.model))
                common, varying = self._parts(self._past.past.to(self.model.device))
                self._weights = fitted_weights(varying, left.flatten(1) - common, self.options.ridge)
        return Signals.all_alike(len(batch), kept=False)

    def _tensors(self) -> dict[str, torch.Tensor]:
        net = {f"net {name}": one for name, one in self._net.items()}
        return {"weights": self._weights, "known": self._known, **net, **self._past.tensors()}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._past.restore(tensors)
        device = self.model.device
        for name, like in (("weights", self._weights), ("known", self._known)):
            check_shape(name, tensors[name], like)
        self._weights, self._known = (tensors[name].to(device, copy=True) for name in ("weights", "known"))
        self._net = {name: tensors[f"net {name}"].to(device, copy=True) for name in self._net}


def systems_of(domains: Sequence[str], parts: int, title: str) -> list[int]:
    """The number of the system that each window of the source is of.

    Args:
        domains: of the windows, in the order of time.
        parts: into which a source of one domain is cut.
        title: of the model, for errors.

    Raises:
        InputError: there are fewer windows than parts.
    """
    known = {name: number for number, name in enumerate(dict.fromkeys(domains))}
    if len(known) > 1:
        return [known[name] for name in domains]
    if len(domains) < parts:
        raise InputError(
            f"the source of {title} has {len(domains)} windows, expected {parts} or more",
            where="--set parts",
            fix="Give fewer parts, or a longer source.jsonl",
        )
    return [at * parts // len(domains) for at in range(len(domains))]


def fitted_weights(varying: torch.Tensor, left: torch.Tensor, ridge: float) -> torch.Tensor:
    """The weights w that minimise |left - w'V|^2 + l |w|^2, shape (factors,).

    Args:
        varying: V, shape (n, factors, values).
        left: what is to be explained, shape (n, values).
        ridge: l.
    """
    factors = varying.transpose(1, 2).reshape(-1, varying.shape[1]).double()
    square = factors.T @ factors + ridge * torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
    found: torch.Tensor = torch.linalg.solve(square, factors.T @ left.reshape(-1).double()).to(left.dtype)
    return found
