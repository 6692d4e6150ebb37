"""A modulation pool over a stream: each example takes the modulator whose key is nearest to its state, which learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.adapters.diversity import DiversityOptions
from genepool.adaptation.gradient import GradientAdapter, StreamLoss
from genepool.adaptation.low_rank_pool import LowRankPool
from genepool.adaptation.stream_model import Inputs, entropy, entropy_of
from genepool.seeding import torch_generator

# Alpha is twice the rank, as in the authors' configuration.
_SCALE = 2.0


class ModulationPoolOptions(DiversityOptions):
    """Options of the modulation pool."""

    modulators: int = Field(default=30, ge=1, le=1000, description="Modulators in the pool; the authors' code.")
    rank: int = Field(default=4, ge=1, le=1024, description="Rank of each; that of the authors' class.")
    match: float = Field(
        default=1.0, ge=0, le=1e6, description="Weight of the pull of a key to the states that took it; ours."
    )


class ModulationPool(GradientAdapter):
    """h = W x + 2 B_m A_m x in every linear layer but the last, m = argmax_k (1 + cos(s, key_k)) / 2 (1 - c_k).

    s is the state of an example, what the frozen model's last layer is given, and c_k the share of all examples before
    that took the modulator k: one that is used much is taken less willingly. The pool minimises
    mean_i H(p_i) - w H(mean_i p_i) - u mean_i cos(s_i, key_m): the diversity loss, and a pull of the keys to the states
    that took them. Nothing of the model itself is changed.
    """

    name = "modulation_pool"
    source = (
        "Schmied et al., L2M, arXiv:2306.14884: pool, ranks, choice by state and count; there modulators learn from "
        "trajectories, here by the diversity loss, which is ours"
    )
    when = "several kinds of inputs come mixed, and each may need a change of its own"
    trains = "added"
    needs = frozenset({"features", "linear layers", "several examples"})
    order = "It is misled where the labels of a batch are all alike."
    Options = ModulationPoolOptions

    def added(self, source: SourceExamples | None) -> dict[str, torch.nn.Parameter]:
        assert isinstance(self.options, ModulationPoolOptions)
        layer = self.model.last_layer()
        assert layer is not None
        count = self.options.modulators
        self._pool = LowRankPool(self.model, count, self.options.rank, _SCALE, self.seed)
        drawn = torch.rand(count, layer.in_features, generator=torch_generator(self.seed, "modulation pool", "keys"))
        self._keys = torch.nn.Parameter((2 * drawn - 1).to(self.model.device))
        self._counts = torch.zeros(count)
        return {"keys": self._keys, **self._pool.tensors}

    def _states(self, inputs: Inputs) -> torch.Tensor:
        """What the frozen model's last layer is given, shape (n, width)."""
        with torch.no_grad():
            return self.model.features_and_logits(inputs)[0]

    def _nearest(self, states: torch.Tensor) -> torch.Tensor:
        """The modulator of each state, shape (n,), int64."""
        cosines = torch.nn.functional.cosine_similarity(states.unsqueeze(1), self._keys.detach().unsqueeze(0), dim=-1)
        share = self._counts / self._counts.sum().clamp_min(1)
        return ((cosines + 1) / 2 * (1 - share.to(cosines.device))).argmax(-1)

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        states = self._states(batch.inputs)
        taken = self._nearest(states)
        self._taken = (states, taken)
        logits = self._pool.logits(batch.inputs, taken)
        self._forward = (batch.number, logits)
        return logits.detach().softmax(-1).cpu()

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return self._pool.logits(inputs, self._nearest(self._states(inputs))).softmax(-1).cpu()

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        assert isinstance(self.options, ModulationPoolOptions)
        states, taken = self._taken
        spread = entropy_of(logits.softmax(-1).mean(0))
        near = torch.nn.functional.cosine_similarity(states, self._keys[taken], dim=-1).mean()
        value = entropy(logits).mean() - self.options.diversity * spread - self.options.match * near
        return StreamLoss(value, torch.ones(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        signals = super().update(batch, late)
        self._counts += torch.bincount(self._taken[1].cpu(), minlength=len(self._counts))
        return signals

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**super()._tensors(), "counts": self._counts}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        super()._restore(tensors, values)
        self._counts = tensors["counts"].clone()
