"""PSMT: a mean teacher that keeps its most needed weights, and a student that holds to what it has just learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.augmentation import augmented
from genepool.adaptation.fisher import anchor
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.mean_teacher import MeanTeacher, symmetric
from genepool.adaptation.stream_model import Inputs, plain


class PsmtOptions(RateOptions):
    """Options of PSMT."""

    decay: float = Field(default=0.999, ge=0, le=1, description="Of the teacher's weights; the authors' code.")
    symmetry: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the reverse cross-entropy; the authors' code."
    )
    anchor: float = Field(
        default=500.0,
        ge=0,
        description="Weight of the pull to the weights of the step before; the authors' code has it to the source's.",
    )
    preserve: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="Share of the teacher's weights that a step leaves alone: those of the largest Fisher "
        "information. The size of the share is that of the authors' code.",
    )


class Psmt(GradientAdapter):
    """min .5 S(p, t) + .5 S(p~, t) + l sum F' (th - th')^2 over all weights, with S as for RMT and t the mean teacher.

    th' are the student's weights before its last step, F' the Fisher information of the last batch: the squared
    gradient of its two terms S, which is how the authors' code has it for the mask. After a step the teacher follows
    where the Fisher information F of this batch is not among the largest: with m = 1 there and 0 elsewhere,
    th_T <- m th_T + (1 - m) (d th_T + (1 - d) th). Student's plus teacher's logits are issued.

    The released code does something else: it pulls to the source's weights, and puts back weights of small F.
    """

    name = "psmt"
    source = (
        "Tian and Lyu, arXiv:2407.02253; the paper's formulas, issued logits and sizes of the authors' code, "
        "with augmentations of ours"
    )
    when = "a mean teacher forgets too much, and there are no source examples"
    trains = "all"
    needs = frozenset({"images"})
    order = "It matters less than for others, as the pull is to the step before."
    Options = PsmtOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert isinstance(self.options, PsmtOptions)
        self._teacher = MeanTeacher(self.model, self.options.decay)
        super()._prepare(source)
        # Nothing pulls before there was a step.
        self._before = plain(self._parameters)
        self._fisher = {name: torch.zeros_like(one) for name, one in self._before.items()}

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        super().predict(batch)
        assert self._forward is not None
        self._taught = self._teacher.logits(batch.inputs)
        return (self._forward[1].detach() + self._taught).softmax(-1).cpu()

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return (self.model.logits(inputs) + self._teacher.logits(inputs)).softmax(-1).cpu()

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        """The consistency with the teacher, without the pull."""
        assert isinstance(self.options, PsmtOptions)
        changed = self.model.logits(augmented(batch.inputs, self.seed, batch.number, "student", self.model.title))
        parts = [symmetric(one, self._taught, self.options.symmetry).mean() for one in (logits, changed)]
        return StreamLoss(0.5 * parts[0] + 0.5 * parts[1], torch.ones(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, PsmtOptions)
        assert self._forward is not None
        loss = self.loss(batch, self._forward[1])
        assert loss.value is not None
        self._forward = None
        start = plain(self._parameters)
        parameters = list(self._parameters.values())
        # One gradient serves both: it is squared before the pull is added to it.
        gradients = torch.autograd.grad(loss.value, parameters, allow_unused=True)
        fisher = {
            name: torch.zeros_like(parameter) if gradient is None else gradient.square()
            for (name, parameter), gradient in zip(self._parameters.items(), gradients, strict=True)
        }
        self.optimiser.zero_grad(set_to_none=True)
        pull = self.options.anchor * anchor(self._parameters, self._before, self._fisher)
        pull.backward()  # type: ignore[no-untyped-call]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and parameter.grad is not None:
                parameter.grad += gradient
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._teacher.follow(self._parameters, except_where=most_needed(fisher, self.options.preserve))
        self._before, self._fisher = start, fisher
        return loss.signals()

    def _tensors(self) -> dict[str, torch.Tensor]:
        own = {
            "teacher": self._teacher.tensors(self._parameters),
            "before": self._before,
            "fisher": self._fisher,
        }
        named = {f"{part} {name}": tensor for part, held in own.items() for name, tensor in held.items()}
        return {**super()._tensors(), **named}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        super()._restore(tensors, values)
        self._teacher.restore({name: tensors[f"teacher {name}"] for name in self._parameters})
        for part, held in (("before", self._before), ("fisher", self._fisher)):
            for name in self._parameters:
                held[name] = tensors[f"{part} {name}"].to(self.model.device, copy=True)


def most_needed(fisher: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Which entries have the largest Fisher information, by name, bool; none that have zero.

    Args:
        fisher: by name.
        share: of all entries; ties at the limit are all taken.
    """
    flat = torch.cat([one.flatten() for one in fisher.values()])
    count = int(share * len(flat))
    if not count:
        return {name: torch.zeros_like(one, dtype=torch.bool) for name, one in fisher.items()}
    limit = flat.kthvalue(len(flat) - count + 1).values
    return {name: (one >= limit) & (one > 0) for name, one in fisher.items()}
