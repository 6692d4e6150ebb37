"""SAR: sharpness-aware steps on sure examples, and a way back when the loss has become too small to be true."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import AdapterOptions, Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.filters import entropy_margin
from genepool.adaptation.gradient import GradientAdapter, StreamLoss
from genepool.adaptation.stream_model import entropy

_BLOCK = re.compile(r"\.(\d+)\.")
# The authors leave out the last three of twelve blocks.
_TOP = 4


class SarOptions(AdapterOptions):
    """Options of SAR."""

    rate: float = Field(default=1e-3, gt=0, le=1e6, description="Learning rate of SGD; the authors' for a ViT.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD; the authors' code.")
    radius: float = Field(default=0.05, gt=0, description="How far the ascent goes; the authors' code.")
    margin: float = Field(
        default=0.4, gt=0, le=1, description="Entropy below which an example counts, of ln classes; the authors' code."
    )
    floor: float = Field(
        default=0.2, ge=0, description="Running mean of the loss below which all is reset; the authors' code."
    )


class Sar(GradientAdapter):
    """Sharpness-aware steps on sure examples, and a reset.

    With H0 = m ln C, g the gradient of mean_{H(p_i) < H0} H(p_i), and p' the predictions at th + r g / |g|: a step at
    th along the gradient of mean H(p'_i) over those of the same examples whose H(p'_i) < H0. When the running mean of
    this loss (.9 old) falls below the floor, everything is put back to its start and the mean begins anew.

    The norms of the last quarter of the blocks, and those behind the blocks, are left alone.
    """

    name = "sar"
    source = "Niu et al., arXiv:2302.12400; formulas and defaults of the authors' code"
    when = "batches are small or mixed. It learns slowly"
    trains = "norm"
    order = "It resets itself where a collapse begins."
    Options = SarOptions

    def trained(self) -> dict[str, torch.nn.Parameter]:
        found = self.model.trainable("norm")
        blocks = {name: int(match[1]) for name in found if (match := _BLOCK.search(name))}
        if not blocks:
            return found
        first_top = max(blocks.values()) + 1 - (max(blocks.values()) + 1) // _TOP
        names = list(found)
        behind = max(at for at, name in enumerate(names) if name in blocks)
        return {
            name: one
            for at, (name, one) in enumerate(found.items())
            if blocks.get(name, -1) < first_top and (name in blocks or at < behind)
        }

    def _prepare(self, source: SourceExamples | None) -> None:
        super()._prepare(source)
        assert isinstance(self.options, SarOptions)
        self._margin = entropy_margin(len(self.model.labels), self.options.margin)
        self._mean: float | None = None

    def _optimiser(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        assert isinstance(self.options, SarOptions)
        return torch.optim.SGD(parameters, lr=self.options.rate, momentum=self.options.momentum)

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        own = entropy(logits)
        kept = own.detach() < self._margin
        return StreamLoss(own[kept].mean() if bool(kept.any()) else None, kept)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert self._forward is not None
        assert isinstance(self.options, SarOptions)
        first = self.loss(batch, self._forward[1])
        self._forward = None
        if first.value is None:
            return first.signals()
        back = self._ascend(first.value)
        own = entropy(self.model.logits(batch.inputs))
        kept = first.kept & (own.detach() < self._margin)
        loss = own[kept].mean() if bool(kept.any()) else None
        gradients = None if loss is None else torch.autograd.grad(loss, list(self._parameters.values()))
        with torch.no_grad():
            for parameter, values in zip(self._parameters.values(), back, strict=True):
                parameter.copy_(values)
        if loss is None or gradients is None:
            return StreamLoss(None, kept).signals()
        for parameter, gradient in zip(self._parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        value = float(loss.detach())
        self._mean = value if self._mean is None else 0.9 * self._mean + 0.1 * value
        signals = StreamLoss(loss, kept).signals()
        if self._mean >= self.options.floor:
            return signals
        # The released code keeps the low mean, and so resets at every batch from then on.
        self.reset()
        return Signals(signals.kept, signals.weight, reset=True)

    def _ascend(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """Goes up along the gradient as far as the radius says; the values before."""
        assert isinstance(self.options, SarOptions)
        gradients = torch.autograd.grad(loss, list(self._parameters.values()))
        norm = torch.stack([one.norm() for one in gradients]).norm()
        before = [parameter.detach().clone() for parameter in self._parameters.values()]
        with torch.no_grad():
            for parameter, gradient in zip(self._parameters.values(), gradients, strict=True):
                parameter.add_(gradient * (self.options.radius / (norm + 1e-12)))
        return before

    def _values(self) -> dict[str, Any]:
        return {"mean": self._mean}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        super()._restore(tensors, values)
        self._mean = None if values["mean"] is None else float(values["mean"])
