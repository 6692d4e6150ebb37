"""Label shift adapter: a small net turns an estimate of how common classes are into a correction of the last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import AdapterOptions, Answered, Signals, SourceExamples, StreamAdapter, StreamBatch
from genepool.adaptation.stream_model import Inputs
from genepool.errors import InputError
from genepool.seeding import torch_generator

# A class that was never seen is as common as this, so that logarithms stay finite.
_LEAST = 1e-4


class LabelShiftOptions(AdapterOptions):
    """Options of the label shift adapter."""

    decay: float = Field(default=0.9, ge=0, lt=1, description="Of the estimate, from one batch to the next; ours.")
    distribution: list[float] | None = Field(
        default=None, description="How common each class is, in the model's order, instead of an estimate."
    )
    steps: int = Field(default=500, ge=1, le=100_000, description="Steps that the net is trained for; ours.")
    rate: float = Field(default=1e-3, gt=0, le=10, description="Learning rate of Adam in this training; ours.")
    width: int = Field(default=64, ge=1, le=4096, description="Hidden units of the net; ours.")
    ratio: float = Field(
        default=100.0,
        gt=1,
        description="Largest ratio of the commonest to the rarest class in this training; ours.",
    )


class LabelShift(StreamAdapter):
    """Logits are (W + D) ((1 + s) f + t) + b + d, where (s, t, D, d) = g(q), f are the features and q is the estimate.

    Before the stream g is trained on source features: for long-tailed distributions q in a random order of the classes
    it minimises the cross-entropy of the logits + ln q0 - ln q, with q0 the source's own (generalised logit
    adjustment), so that the logits alone are right where q holds. On the stream q <- d q + (1 - d) mean_i p_i, with
    the predictions that were issued, or q is what `distribution` says. The model itself is left as it is.
    """

    name = "label_shift"
    source = (
        "Park et al., Label Shift Adapter for Test-Time Adaptation, ICCV 2023, as others describe it; defaults ours"
    )
    when = "some classes become commoner than they were in training"
    trains = "added"
    needs = frozenset({"source examples", "features"})
    order = "Where labels come sorted the estimate follows them."
    Options = LabelShiftOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert source is not None
        assert isinstance(self.options, LabelShiftOptions)
        classes = len(self.model.labels)
        self._given = _checked(self.options.distribution, classes)
        targets = torch.cat(source.targets)
        self._source = torch.bincount(targets, minlength=classes).float() / len(targets)
        self._source = (self._source + _LEAST) / (self._source + _LEAST).sum()
        self._estimate = self._source.clone() if self._given is None else self._given
        with torch.no_grad():
            features = torch.cat([self.model.features_and_logits(one)[0] for one in source.batches])
        self._net = self._fresh(features.shape[1], classes)
        self._train(features, targets)

    def _fresh(self, width: int, classes: int) -> dict[str, torch.Tensor]:
        """The net at the start: it corrects nothing."""
        assert isinstance(self.options, LabelShiftOptions)
        hidden, out = self.options.width, 2 * width + classes * width + classes
        drawn = torch.randn(hidden, classes, generator=torch_generator(self.seed, "label shift", "start"))
        return {
            "first": drawn * math.sqrt(2 / classes),
            "bias": torch.zeros(hidden),
            "second": torch.zeros(out, hidden),
            "shift": torch.zeros(out),
        }

    def _train(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Teaches the net on source features, a batch of 64 a step."""
        assert isinstance(self.options, LabelShiftOptions)
        for tensor in self._net.values():
            tensor.requires_grad_(True)
        optimiser = torch.optim.Adam(list(self._net.values()), lr=self.options.rate)
        for step in range(self.options.steps):
            generator = torch_generator(self.seed, "label shift", step)
            rows = torch.randint(0, len(features), (min(64, len(features)),), generator=generator)
            wanted = long_tail(len(self._source), self.options.ratio, generator)
            loss = adjusted_loss(self._corrected(features[rows], wanted), targets[rows], self._source, wanted)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self._net = {name: tensor.detach() for name, tensor in self._net.items()}

    def _corrected(self, features: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The logits of features under a distribution, shape (n, classes), on the processor."""
        layer = self.model.last_layer()
        assert layer is not None
        weight = layer.weight.detach().float().cpu()
        classes, width = weight.shape
        # Uniform is 0, so that what is common and what is rare stand alike to both sides.
        given = (wanted * classes).log()
        inner = (self._net["first"] @ given + self._net["bias"]).relu()
        raw = self._net["second"] @ inner + self._net["shift"]
        scale, shift, delta, own = torch.split(raw, [width, width, classes * width, classes])
        bias = torch.zeros(classes) if layer.bias is None else layer.bias.detach().float().cpu()
        moved = (1 + scale) * features.cpu() + shift
        found: torch.Tensor = moved @ (weight + delta.view(classes, width)).T + bias + own
        return found

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return self._corrected(self.model.features_and_logits(inputs)[0], self._estimate).softmax(-1)

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        self._issued = self.look(batch.inputs)
        return self._issued

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, LabelShiftOptions)
        if self._given is None:
            mean = (self._issued.mean(0) + _LEAST) / (1 + _LEAST * len(self._source))
            self._estimate = self.options.decay * self._estimate + (1 - self.options.decay) * mean
        return Signals.all_alike(len(batch), kept=self._given is None)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {"estimate": self._estimate, **{f"net {name}": tensor for name, tensor in self._net.items()}}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._estimate = tensors["estimate"].clone()
        for name, own in self._net.items():
            if tensors[f"net {name}"].shape != own.shape:
                raise ValueError(f"the net's {name} has another shape")
        self._net = {name: tensors[f"net {name}"].clone() for name in self._net}


def adjusted_loss(
    logits: torch.Tensor, targets: torch.Tensor, source: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """The cross-entropy of logits + ln q0 - ln q, a scalar.

    Args:
        logits: shape (n, classes).
        targets: numbers of the classes, shape (n,).
        source: q0, how common each class is among the examples, shape (classes,).
        wanted: q, how common it is to be.
    """
    return torch.nn.functional.cross_entropy(logits + source.log() - wanted.log(), targets)


def long_tail(classes: int, ratio: float, generator: torch.Generator) -> torch.Tensor:
    """A distribution whose logarithm falls evenly over the classes in a random order, shape (classes,).

    Args:
        classes: their number.
        ratio: the largest ratio of the commonest to the rarest; drawn evenly in its logarithm from 1 on.
        generator: of the draws.
    """
    drawn = float(torch.rand((), generator=generator)) * math.log(ratio)
    order = torch.randperm(classes, generator=generator)
    found = (-drawn * order / max(classes - 1, 1)).exp()
    return found / found.sum()


def _checked(given: list[float] | None, classes: int) -> torch.Tensor | None:
    """A distribution that a user gave, None for none.

    Raises:
        InputError: it is of another number of classes, has a negative share, or sums to something else than 1.
    """
    if given is None:
        return None
    where = "--set distribution"
    if len(given) != classes:
        raise InputError(f"got {len(given)} shares, expected {classes}, one a class", where=where, fix="Give all")
    if min(given) < 0:
        raise InputError(f"got the share {min(given):g}, expected 0 or more", where=where, fix="Correct it")
    if abs(sum(given) - 1) > 1e-6:
        raise InputError(f"the shares sum to {sum(given):g}, expected 1", where=where, fix="Divide each by their sum")
    found = torch.tensor(given, dtype=torch.float32)
    return (found + _LEAST) / (1 + _LEAST * classes)
