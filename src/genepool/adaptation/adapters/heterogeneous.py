"""Heterogeneous domain adaptation: a few labels, and a source of another kind that helps to spread them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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
from genepool.adaptation.shared_space import SeenExamples, SharedSpace, SpaceTraining, noise_like
from genepool.adaptation.stream_model import Inputs

# Stream examples without a label that are kept for the training.
_UNLABELLED = 512


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
        self._space = SharedSpace()
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
            lent = noise_like(targets, len(self.model.labels), lent.shape[1], self.seed)
        told = targets >= 0
        return lent[told], targets[told]

    def _features(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return self.model.features_and_logits(inputs)[0].cpu()

    def look(self, inputs: Inputs) -> torch.Tensor:
        if not self._space.net:
            return self.model.probabilities(inputs)
        return self._space.classified(self._space.shared("stream", self._features(inputs))).softmax(-1)

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, HeterogeneousOptions)
        kept = torch.zeros(len(batch), dtype=torch.bool)
        if self._space.net:
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
        how = SpaceTraining(options.width, options.source_weight, options.distance, options.steps, options.rate)
        known = SeenExamples(seen["labelled"], seen["targets"], seen["unlabelled"])
        self._space.train(
            known, self._lent, self._lent_targets, len(self.model.labels), how, self.seed, lends=options.lent != "none"
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        seen = {f"seen {name}": one for name, one in self._seen.items()}
        return {**seen, **{f"net {name}": one for name, one in self._space.net.items()}}

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
        self._seen, self._space.net = parts["seen"], parts["net"]
