"""A model as streams use it: inputs of any kind in, logits or forecasts with gradients out, trainable parts by name.

Wraps a `Network` of `genepool.tasks`, so that an adapter knows nothing of tokens, pixels or files.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from genepool.tasks.answers import AnswerBatch
from genepool.tasks.models.forecaster import SERIES

if TYPE_CHECKING:
    from genepool.tasks.network import Network

_NONE = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class Inputs:
    """Some examples as a network reads them.

    Attributes:
        parts: of every part, which rows it holds and what the network is called with.
        count: rows of all parts.
    """

    parts: tuple[tuple[tuple[int, ...], Mapping[str, torch.Tensor]], ...]
    count: int

    def mapped(self, key: str, values: torch.Tensor) -> Inputs:
        """The same with other values under a key, which stand row by row; all rows become one part."""
        return Inputs(((tuple(range(self.count)), {key: values}),), self.count)

    def whole(self, key: str) -> torch.Tensor:
        """What all parts hold under a key, row by row."""
        found = torch.cat([part[key] for _, part in self.parts])
        return found[_inverse([row for rows, _ in self.parts for row in rows])]


class StreamModel:
    """A classifier or a forecaster in memory.

    Args:
        model: it; its network is put into evaluation mode and learns nothing until it is told to.
        variables: of the series that it is to forecast; 0 where there is none.

    Attributes:
        asked: the model.
        network: its torch module.
        labels: names of the classes; empty for a forecaster.
        forecasts: whether it forecasts series.
        variables: as given.
        title: what errors call it.
    """

    def __init__(self, model: Network, variables: int = 0) -> None:
        self.asked, self.variables = model, variables
        self.forecasts = "forecasts" in model.can
        self.labels: tuple[str, ...] = () if self.forecasts else tuple(model.labels)
        self.title = model.title
        self.network: nn.Module = model.model
        self.network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.network.parameters()).dtype

    def copy(self) -> StreamModel:
        """Another one with the same tensors, which nothing changes."""
        # What stands beside the network (a tokenizer, a processor) is shared: only tensors are copied.
        other = copy.copy(self.asked)
        other.model = copy.deepcopy(self.network).requires_grad_(False)
        return StreamModel(other, self.variables)

    # ------------------------------------------------------------------ asking

    def logits(self, inputs: Inputs) -> torch.Tensor:
        """The logits of every example, shape (n, classes), float32, with gradients where they are on."""
        found = [self.asked.answer_logits(_called(part)) for _, part in inputs.parts]
        if len(found) == 1 and inputs.parts[0][0] == tuple(range(inputs.count)):
            return found[0]
        return torch.cat(found)[_inverse([row for rows, _ in inputs.parts for row in rows])]

    def probabilities(self, inputs: Inputs) -> torch.Tensor:
        """The probabilities of the classes, shape (n, classes), float32, without gradients, on the processor."""
        with torch.no_grad():
            return self.logits(inputs).softmax(-1).cpu()

    def forecast(self, inputs: Inputs) -> torch.Tensor:
        """What follows each window, shape (n, horizon, variables), float32, with gradients where they are on."""
        return self.asked.forecast(inputs.whole(SERIES))

    def predictions(self, inputs: Inputs) -> torch.Tensor:
        """What it answers, without gradients, on the processor: probabilities of classes, or forecasts."""
        if not self.forecasts:
            return self.probabilities(inputs)
        with torch.no_grad():
            return self.forecast(inputs).cpu()

    def features_and_logits(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last linear layer is given, shape (n, width), and the logits; with gradients where they are on."""
        seen: list[torch.Tensor] = []
        layer = self.last_layer()
        assert layer is not None
        hook = layer.register_forward_pre_hook(lambda _module, given: seen.append(given[0].flatten(1)))
        try:
            logits = self.logits(inputs)
        finally:
            hook.remove()
        whole = torch.cat(seen)
        if len(inputs.parts) > 1 or inputs.parts[0][0] != tuple(range(inputs.count)):
            whole = whole[_inverse([row for rows, _ in inputs.parts for row in rows])]
        return whole.float(), logits

    @property
    def writes(self) -> bool:
        """Whether it is a language model, which writes texts."""
        return "text" in self.asked.can

    @property
    def has_features(self) -> bool:
        """Whether a linear layer gives the classes, so that what it is given are features."""
        return self.last_layer() is not None

    @property
    def has_linear_layers(self) -> bool:
        """Whether there are linear layers beside the one that gives the classes."""
        from genepool.composition.context.modulators import modulated_layers

        return any(one.module is not self.last_layer() for one in modulated_layers(self.asked).values())

    def last_layer(self) -> nn.Linear | None:
        """The linear layer that gives the classes; None where another kind of layer does."""
        layers = [one for one in self.network.modules() if isinstance(one, nn.Linear)]
        return layers[-1] if self.labels and layers and layers[-1].out_features == len(self.labels) else None

    # ------------------------------------------------------------------ what can be trained

    def norms(self) -> dict[str, nn.Module]:
        """The layers that normalise and have a scale of their own, by name: batch, layer, group and RMS norms."""
        return {
            name: one
            for name, one in self.network.named_modules()
            if "norm" in type(one).__name__.lower()
            and isinstance(getattr(one, "weight", None), nn.Parameter)
            and not isinstance(one, nn.Linear | nn.Conv2d)
        }

    def names(self, which: Literal["norm", "all"]) -> tuple[str, ...]:
        """Names of the parameters: those of the norms alone, or all."""
        if which == "all":
            return tuple(name for name, _ in self.network.named_parameters())
        return tuple(
            f"{layer}.{name}" if layer else name
            for layer, module in self.norms().items()
            for name, _ in module.named_parameters(recurse=False)
        )

    def trainable(self, which: Literal["norm", "all"]) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        known = dict(self.network.named_parameters())
        return {name: known[name] for name in self.names(which)}

    @contextmanager
    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Inside, some parameters have other values, without gradients; afterwards their own again."""
        known = dict(self.network.named_parameters())
        own = {name: known[name].detach().clone() for name in tensors}
        with torch.no_grad():
            for name, values in tensors.items():
                known[name].copy_(values)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in own.items():
                    known[name].copy_(values)

    def use_batch_statistics(self) -> None:
        """Batch norms normalise with the statistics of the batch instead of the source's, as TENT's authors do."""
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.track_running_stats = False
                module.running_mean, module.running_var = None, None

    @property
    def has_batch_norm(self) -> bool:
        """Whether a batch norm is among its layers."""
        return any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in self.network.modules())


def _called(inputs: Mapping[str, torch.Tensor]) -> AnswerBatch:
    """What `answer_logits` takes; of a classifier it reads the inputs alone."""
    return AnswerBatch(inputs, [], _NONE, _NONE, _NONE, _NONE, [])


def _inverse(rows: Sequence[int]) -> torch.Tensor:
    """Where each row stands among rows that are in this order."""
    found = torch.empty(len(rows), dtype=torch.long)
    found[torch.tensor(rows, dtype=torch.long)] = torch.arange(len(rows))
    return found


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """The entropy of each prediction, in nats, shape (n,)."""
    logs = logits.log_softmax(-1)
    found: torch.Tensor = -(logs.exp() * logs).sum(-1)
    return found


def entropy_of(probabilities: torch.Tensor) -> torch.Tensor:
    """The entropy of distributions that stand in the last place, in nats; 0 log 0 is 0."""
    found: torch.Tensor = -torch.special.xlogy(probabilities, probabilities).sum(-1)
    return found


def plain(tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Copies without gradients."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
