"""Heterogeneous domain adaptation: a few labels, and a source of another kind that helps to spread them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional

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
from genepool.seeding import torch_generator

# Source examples of a step, and stream examples without a label that are kept for the training.
_A_STEP, _UNLABELLED = 256, 512
# How steep the nets' units are below 0, as in the authors' code.
_LEAK = 0.01


class HeterogeneousOptions(AdapterOptions):
    """Options of heterogeneous domain adaptation."""

    lent: Literal["real", "noise", "none"] = Field(
        default="real",
        description="What is lent: source examples as they are read, noise about a point for each class, or nothing.",
    )
    shots: int = Field(default=3, ge=1, le=10_000, description="Labels of a class that are used; three in the paper.")
    wait: int = Field(
        default=10,
        ge=1,
        le=100_000,
        description="Batches with labels after which it begins although a class lacks some; ours.",
    )
    width: int = Field(default=256, ge=1, le=4096, description="Of the features that both share; the paper.")
    source_weight: float = Field(default=0.1, ge=0, description="Of the loss on what is lent; the paper.")
    distance: float = Field(default=0.1, ge=0, description="Weight of the distance between the two; ours.")
    steps: int = Field(default=600, ge=1, le=1_000_000, description="Steps of the training; the paper.")
    rate: float = Field(default=1e-3, gt=0, le=10, description="Learning rate of Adam; ours.")


class Heterogeneous(StreamAdapter):
    """min CE(labelled) + b CE(lent) + m (|mean_s - mean_t|^2 + mean_c |mean_sc - mean_tc|^2), once, by steps of Adam.

    The stream is what the model's last layer is given, the source its raw inputs: spaces of different kinds. A layer
    of leaky units for each leads into one space of normalised features, which one linear classifier reads. mean_t is
    over labelled and unlabelled examples of the stream; of a class it weighs the unlabelled ones by what is predicted
    for them, without gradient. It begins once labels of every class have come; until then the answers of the model
    itself are issued.
    """

    name = "heterogeneous"
    source = (
        "Yao et al., Noise May Contain Transferable Knowledge, arXiv:2502.13573, and Soft Transfer Network, "
        "arXiv:1908.10552, from their descriptions; what is not in them is ours"
    )
    when = "a few labels come, and what the model gives as features must be read anew"
    trains = "added"
    needs = frozenset({"features", "source examples", "late labels"})
    order = "Where labels come sorted it waits long for the last class."
    Options = HeterogeneousOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert source is not None
        self._lent, self._lent_targets = self._read(source)
        self._net: dict[str, torch.Tensor] = {}
        self._seen: dict[str, torch.Tensor] = {}
        self._told = 0

    def _read(self, source: SourceExamples) -> tuple[torch.Tensor, torch.Tensor]:
        """What is lent, shape (n, width), and its classes."""
        assert isinstance(self.options, HeterogeneousOptions)
        targets = torch.cat(source.targets)
        parts = []
        for one in source.batches:
            key = next(iter(one.parts[0][1]))
            values = one.whole(key)
            parts.append((values if values.is_floating_point() else self._features(one)).flatten(1).float().cpu())
        lent = torch.cat(parts)
        if self.options.lent == "noise":
            centres = torch.randn(
                len(self.model.labels), lent.shape[1], generator=torch_generator(self.seed, "heterogeneous", "centres")
            )
            drawn = torch.randn(lent.shape, generator=torch_generator(self.seed, "heterogeneous", "noise"))
            lent = centres[targets.clamp_min(0)] + drawn
        told = targets >= 0
        return lent[told], targets[told]

    def _features(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return self.model.features_and_logits(inputs)[0].cpu()

    def look(self, inputs: Inputs) -> torch.Tensor:
        if not self._net:
            return self.model.probabilities(inputs)
        return self._classified(self._shared("stream", self._features(inputs))).softmax(-1)

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, HeterogeneousOptions)
        kept = torch.zeros(len(batch), dtype=torch.bool)
        if self._net:
            return Signals(kept, kept.float())
        self._keep("unlabelled", self._features(batch.inputs)[:_UNLABELLED])
        for one in late:
            told = one.targets >= 0
            wanted = self._wanted(one.targets)
            if bool(wanted.any()):
                self._keep("labelled", self._features(one.batch.inputs)[wanted])
                self._keep("targets", one.targets[wanted])
            self._told += bool(told.any())
            if one.batch.number == batch.number:
                kept = wanted
        classes = self._seen.get("targets", torch.zeros(0, dtype=torch.long))
        counts = torch.bincount(classes, minlength=len(self.model.labels))
        if len(classes) and (bool((counts >= self.options.shots).all()) or self._told >= self.options.wait):
            self._train()
        return Signals(kept, kept.float())

    def _wanted(self, targets: torch.Tensor) -> torch.Tensor:
        """Which labels are among the first of their class."""
        assert isinstance(self.options, HeterogeneousOptions)
        known = self._seen.get("targets", torch.zeros(0, dtype=torch.long))
        counts = torch.bincount(known, minlength=len(self.model.labels)).tolist()
        wanted = []
        for target in targets.tolist():
            wanted.append(target >= 0 and counts[target] < self.options.shots)
            counts[target] += wanted[-1]
        return torch.tensor(wanted)

    def _keep(self, name: str, rows: torch.Tensor) -> None:
        known = self._seen.get(name)
        whole = rows if known is None else torch.cat([known, rows])
        self._seen[name] = whole[-_UNLABELLED:] if name == "unlabelled" else whole

    def _train(self) -> None:
        assert isinstance(self.options, HeterogeneousOptions)
        options, seen = self.options, self._seen
        lends = options.lent != "none"
        widths = {"stream": seen["labelled"].shape[1], "lent": self._lent.shape[1]}
        for name, (rows, columns) in {
            **{one: (options.width, width) for one, width in widths.items()},
            "classes": (len(self.model.labels), options.width),
        }.items():
            generator = torch_generator(self.seed, "heterogeneous", name)
            self._net[name] = (2 * torch.rand(rows, columns, generator=generator) - 1) * columns**-0.5
            self._net[f"{name} bias"] = torch.zeros(rows)
        for one in self._net.values():
            one.requires_grad_(True)
        optimiser = torch.optim.Adam(list(self._net.values()), lr=options.rate)
        for step in range(options.steps):
            labelled, others = self._shared("stream", seen["labelled"]), self._shared("stream", seen["unlabelled"])
            loss = functional.cross_entropy(self._classified(labelled), seen["targets"])
            if lends:
                generator = torch_generator(self.seed, "heterogeneous", "step", step)
                chosen = torch.randint(0, len(self._lent), (min(_A_STEP, len(self._lent)),), generator=generator)
                lent, classes = self._shared("lent", self._lent[chosen]), self._lent_targets[chosen]
                soft = self._classified(others).detach().softmax(-1)
                ours = torch.cat([functional.one_hot(seen["targets"], soft.shape[1]).float(), soft])
                theirs = functional.one_hot(classes, soft.shape[1]).float()
                loss = loss + options.source_weight * functional.cross_entropy(self._classified(lent), classes)
                loss = loss + options.distance * mean_distance(torch.cat([labelled, others]), ours, lent, theirs)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self._net = {name: one.detach() for name, one in self._net.items()}

    def _shared(self, side: str, values: torch.Tensor) -> torch.Tensor:
        """Features in the space that both share, of length 1, shape (n, width)."""
        inner = functional.leaky_relu(functional.linear(values, self._net[side], self._net[f"{side} bias"]), _LEAK)
        return functional.normalize(inner, dim=-1)

    def _classified(self, shared: torch.Tensor) -> torch.Tensor:
        return functional.linear(shared, self._net["classes"], self._net["classes bias"])

    def _tensors(self) -> dict[str, torch.Tensor]:
        seen = {f"seen {name}": one for name, one in self._seen.items()}
        return {**seen, **{f"net {name}": one for name, one in self._net.items()}}

    def _values(self) -> dict[str, Any]:
        return {"told": self._told}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._told = int(values["told"])
        layer = self.model.last_layer()
        assert layer is not None
        assert isinstance(self.options, HeterogeneousOptions)
        parts: dict[str, dict[str, torch.Tensor]] = {"seen": {}, "net": {}}
        for name, one in tensors.items():
            which, _, own = name.partition(" ")
            parts[which][own] = one.clone()
            features = (len(one), layer.in_features) if one.dim() == 2 else (1, layer.in_features)
            wide = self.options.width
            likes = {
                "seen targets": (one.numel(),), "net stream": (wide, layer.in_features),
                "net lent": (wide, self._lent.shape[1]), "net classes": (len(self.model.labels), wide),
                "net classes bias": (len(self.model.labels),), "net stream bias": (wide,), "net lent bias": (wide,),
            }  # fmt: skip
            check_shape(name, one, torch.empty(likes.get(name, features), device="meta"))
        self._seen, self._net = parts["seen"], parts["net"]


def mean_distance(
    ours: torch.Tensor, our_classes: torch.Tensor, theirs: torch.Tensor, their_classes: torch.Tensor
) -> torch.Tensor:
    """|mean - mean|^2 of two sets of features, and the mean of the same by class; a scalar.

    Args:
        ours, theirs: features, shape (n, width).
        our_classes, their_classes: how much each is of each class, shape (n, classes); a class that one side has none
            of is left out.
    """
    whole = (ours.mean(0) - theirs.mean(0)).square().sum()
    shares = [one.sum(0) for one in (our_classes, their_classes)]
    there = (shares[0] > 0) & (shares[1] > 0)
    means = [
        (classes.T @ points)[there] / share[there, None]
        for classes, points, share in zip((our_classes, their_classes), (ours, theirs), shares, strict=True)
    ]
    apart = (means[0] - means[1]).square().sum(-1)
    return whole + (apart.mean() if len(apart) else whole * 0)
