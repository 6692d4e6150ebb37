"""Adapters that follow a gradient: one forward gives the prediction and the loss, one step follows once it is issued.

Most adapters are a loss on the logits of a batch; `GradientAdapter` does the rest. Uses torch's own optimisers, whose
moments are part of the state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
from genepool.adaptation.stream_model import Inputs

# Between the names of a parameter and of one of its moments; no tensor's name holds it.
_OF = "|"
# Before the names of parameters that are the adapter's own.
_ADDED = "added "


class RateOptions(AdapterOptions):
    """The step size that all of them have."""

    rate: float = Field(
        default=1e-3, gt=0, le=1e6, description="Learning rate of Adam; 1e-3 is that of TENT's authors."
    )


@dataclass(frozen=True)
class StreamLoss:
    """A loss and what it thinks of each example.

    Attributes:
        value: the loss; None where nothing is to be learned, and the step is left out.
        kept: whether an example counts, shape (n,), bool.
        weight: how much it counts, shape (n,); 1 for those that are kept when None.
    """

    value: torch.Tensor | None
    kept: torch.Tensor
    weight: torch.Tensor | None = None

    def signals(self) -> Signals:
        """The same, as it is recorded."""
        weight = self.kept.float() if self.weight is None else self.weight
        return Signals(self.kept.detach().cpu(), weight.detach().float().cpu())


class GradientAdapter(StreamAdapter):
    """A loss on the logits of a batch, one optimiser step a batch.

    One with parameters of its own gives them by `added`.
    """

    Options: ClassVar[type[AdapterOptions]] = RateOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        if self.trains == "norm" and self.model.has_batch_norm:
            self.model.use_batch_statistics()
        self._parameters = dict(self.trained())
        self._added = self.added(source)
        self._parameters |= self._added
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self.optimiser = self._optimiser(list(self._parameters.values()))
        self._forward: tuple[int, torch.Tensor] | None = None

    def added(self, source: SourceExamples | None) -> dict[str, torch.nn.Parameter]:
        """Parameters of its own, by name, which are trained with those of the model and are part of its state."""
        return {}

    def _optimiser(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        assert isinstance(self.options, RateOptions)
        return torch.optim.Adam(parameters, lr=self.options.rate)

    @abstractmethod
    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        """What a step minimises.

        Args:
            batch: the examples.
            logits: of them, shape (n, classes), float32, with gradients.
        """

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        logits = self.model.logits(batch.inputs)
        self._forward = (batch.number, logits)
        return logits.detach().softmax(-1).cpu()

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert self._forward is not None
        assert self._forward[0] == batch.number
        loss = self.loss(batch, self._forward[1])
        self._forward = None
        if loss.value is not None:
            self.follow(loss.value)
        return loss.signals()

    def follow(self, loss: torch.Tensor) -> None:
        """One step of the optimiser along the gradient of a loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def look(self, inputs: Inputs) -> torch.Tensor:
        return self.model.predictions(inputs)

    def _tensors(self) -> dict[str, torch.Tensor]:
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self._parameters.items()}
        added: dict[str, torch.Tensor] = {f"{_ADDED}{name}": one for name, one in self._added.items()}
        return added | {
            f"{names[parameter]}{_OF}{key}": torch.as_tensor(value)
            for parameter, moments in self.optimiser.state.items()
            for key, value in moments.items()
            if value is not None
        }

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._forward = None
        with torch.no_grad():
            for name, parameter in self._added.items():
                found = tensors[f"{_ADDED}{name}"]
                check_shape(name, found, parameter)
                parameter.copy_(found)
        self.optimiser.state.clear()
        for place, tensor in tensors.items():
            name, mark, key = place.partition(_OF)
            if mark:
                parameter = self._parameters[name]
                check_shape(place, tensor, torch.zeros(()) if key == "step" else parameter)
                copied = tensor.clone() if key == "step" else tensor.to(parameter.device, copy=True)
                self.optimiser.state[parameter][key] = copied
        if len({frozenset(moments) for moments in self.optimiser.state.values()}) > 1:
            raise ValueError("a moment of the optimiser is missing")
