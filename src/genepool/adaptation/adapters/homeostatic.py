"""Homeostatic rate: how fast a model learns follows a need of its own, which its right and wrong answers move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch, check_shape
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss


class HomeostaticOptions(RateOptions):
    """Options of the homeostatic rate."""

    effect: float = Field(default=0.1, gt=0, le=1, description="How far an example moves the need; ours.")
    gain: float = Field(
        default=9.0, ge=0, le=1e4, description="How much faster it learns at the largest need: 1 + this times; ours."
    )


class Homeostatic(GradientAdapter):
    """min mean_i -ln p_ic over all weights, a step of Adam with rate r (1 + g |h|) for each batch whose labels c come.

    The need h is 0 at the set point and at most 1 to either side. A class with an even number raises it, one with an
    odd number lowers it: e_c is 1 or -1. Where the answer a that was issued for an example promises to bring the need
    back, e_a h <= 0, the model takes the example and feels what it is: h <- h + s e_c, cut at 1. So right answers keep
    the need within s of the set point, and wrong ones drive it away and raise the rate.
    """

    name = "homeostatic"
    source = (
        "the idea of Man, Damasio and Neven, arXiv:2205.08645, as its abstract has it; effects, set point and rate "
        "are ours"
    )
    when = "what the labels mean changes, and labels come late"
    trains = "all"
    needs = frozenset({"late labels"})
    order = "Labels that come sorted are of one effect for long, so a wrong answer about them moves the need far."
    Options = HomeostaticOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        super()._prepare(source)
        self._need = 0.0
        # What was answered, by number of the batch, until its labels come.
        self._answered: dict[int, torch.Tensor] = {}

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        found = self.model.probabilities(batch.inputs)
        self._answered[batch.number] = found.argmax(-1)
        return found

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        """Nothing can be learned from a batch whose labels have not come."""
        return StreamLoss(None, torch.zeros(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, HomeostaticOptions)
        kept = torch.zeros(len(batch), dtype=torch.bool)
        faster = 1.0
        for one in late:
            # None for a batch that was answered before a reset.
            answers = self._answered.pop(one.batch.number, None)
            told = one.targets >= 0
            if not bool(told.any()):
                continue
            if answers is not None:
                pairs = zip(answers[told].tolist(), one.targets[told].tolist(), strict=True)
                self._need = need_after(self._need, pairs, self.options.effect)
            faster = 1 + self.options.gain * abs(self._need)
            for group in self.optimiser.param_groups:
                group["lr"] = self.options.rate * faster
            logits = self.model.logits(one.batch.inputs)[told]
            self.follow(torch.nn.functional.cross_entropy(logits, one.targets[told].to(logits.device)))
            if one.batch.number == batch.number:
                kept = told
        # Rows say with which rate, as a multiple of the usual one.
        return StreamLoss(None, kept, kept.float() * faster).signals()

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**super()._tensors(), **{f"answered {at}": one for at, one in self._answered.items()}}

    def _values(self) -> dict[str, Any]:
        return {"need": self._need}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        mark = "answered "
        self._answered = {int(at.removeprefix(mark)): one for at, one in tensors.items() if at.startswith(mark)}
        for at, one in self._answered.items():
            check_shape(f"{mark}{at}", one, torch.zeros(one.numel()))
        self._need = float(values["need"])
        super()._restore(tensors, values)


def need_after(need: float, pairs: Any, effect: float) -> float:
    """The need after some examples, one after the other.

    Args:
        need: before them, from -1 to 1.
        pairs: of each, the number of the class that was answered, and of the right one.
        effect: of an example that is taken.
    """
    for answered, right in pairs:
        if _effect(answered) * need <= 0:
            need = min(1.0, max(-1.0, need + effect * _effect(right)))
    return need


def _effect(number: int) -> int:
    """1 for a class that raises the need, -1 for one that lowers it."""
    return -1 if number % 2 else 1
