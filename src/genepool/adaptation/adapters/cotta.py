"""CoTTA: a student learns from a mean teacher's predictions, and some of its weights are put back at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.augmentation import augmented
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.mean_teacher import MeanTeacher
from genepool.adaptation.stream_model import Inputs, plain
from genepool.seeding import torch_generator


class CottaOptions(RateOptions):
    """Options of CoTTA."""

    decay: float = Field(default=0.999, ge=0, le=1, description="Of the teacher's weights; the authors' code.")
    restore: float = Field(
        default=0.01, ge=0, le=1, description="Share of the weights that are put back; the authors' code for CIFAR."
    )
    sure: float = Field(
        default=0.92,
        ge=0,
        le=1,
        description="Mean confidence of the source below which the teacher averages; the authors' code for CIFAR-10.",
    )
    augmentations: int = Field(default=32, ge=1, description="Changed images that are averaged; the authors' code.")


class Cotta(GradientAdapter):
    """min mean_i -sum_c t_ic ln p_ic over all weights, t the mean teacher's prediction.

    Where the source is less sure than the limit, t is the softmax of the mean logits over changed images. After a step
    the teacher follows, and every weight is put back to the source's with a small probability. The teacher's prediction
    is issued, and the teacher's weights are what comes out. All weights can be put back; the released code passes over
    those that are not called weight or bias.
    """

    name = "cotta"
    source = "Wang et al., arXiv:2203.13591; formulas and defaults of the authors' code, with augmentations of ours"
    when = "the model stands the augmentations. It collapses where it does not"
    trains = "all"
    needs = frozenset({"images"})
    order = "Figures of the paper hang on whether it is reset between domains."
    Options = CottaOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert isinstance(self.options, CottaOptions)
        self._teacher = MeanTeacher(self.model, self.options.decay)
        self._source = self.model.copy()
        super()._prepare(source)
        self._start = plain(self._parameters)
        self._taught: torch.Tensor | None = None

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        super().predict(batch)
        self._taught = self._teaching(batch)
        return self._taught.softmax(-1).cpu()

    def _teaching(self, batch: StreamBatch) -> torch.Tensor:
        """The teacher's logits, shape (n, classes)."""
        assert isinstance(self.options, CottaOptions)
        confidence = self._source.probabilities(batch.inputs).max(-1).values.mean()
        if float(confidence) >= self.options.sure:
            return self._teacher.logits(batch.inputs)
        parts = [
            self._teacher.logits(augmented(batch.inputs, self.seed, batch.number, f"teacher {at}", self.model.title))
            for at in range(self.options.augmentations)
        ]
        return torch.stack(parts).mean(0)

    def look(self, inputs: Inputs) -> torch.Tensor:
        return self._teacher.logits(inputs).softmax(-1).cpu()

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        assert self._taught is not None
        value = -(self._taught.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        return StreamLoss(value, torch.ones(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, CottaOptions)
        signals = super().update(batch, late)
        self._teacher.follow(self._parameters)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                generator = torch_generator(self.seed, "cotta restore", name, batch.number)
                back = torch.rand(parameter.shape, generator=generator).to(parameter.device) < self.options.restore
                parameter.copy_(torch.where(back, self._start[name], parameter))
        return signals

    def result(self) -> dict[str, torch.Tensor]:
        return self._teacher.tensors(self._parameters)

    def _tensors(self) -> dict[str, torch.Tensor]:
        teacher = self._teacher.tensors(self._parameters)
        return {**super()._tensors(), **{f"teacher {name}": tensor for name, tensor in teacher.items()}}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        super()._restore(tensors, values)
        mark = "teacher "
        self._teacher.restore({n.removeprefix(mark): one for n, one in tensors.items() if n.startswith(mark)})
