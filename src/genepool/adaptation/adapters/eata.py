"""EATA: sure examples that are unlike the usual prediction, and an anchor on what the source needs."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import SourceExamples, StreamBatch, check_shape
from genepool.adaptation.filters import entropy_margin, running_mean, unlike
from genepool.adaptation.fisher import anchor, diagonal_fisher
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.stream_model import entropy, plain

# From so many classes on the defaults are those of ImageNet, below those of CIFAR.
_MANY = 200


class EataOptions(RateOptions):
    """Options of EATA."""

    margin: float = Field(
        default=0.4, gt=0, le=1, description="Entropy below which an example counts, of ln classes; the authors' code."
    )
    redundancy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Largest |cosine| with the usual prediction; null: 0.4 below 200 classes and 0.05 from there on, "
        "the authors' values for CIFAR and ImageNet.",
    )
    anchor: float | None = Field(
        default=None,
        ge=0,
        description="Weight of the anchor; null: 1 below 200 classes and 2000 from there on, the authors' values.",
    )
    source: int = Field(default=2000, ge=1, description="Source examples behind the anchor; the authors' code.")


class Eata(GradientAdapter):
    """Sure examples that are unlike the usual prediction, weighted, and an anchor.

    With H0 = m ln C and K = {i: H(p_i) < H0, |cos(p_i, q)| < d}, q the running mean of the predictions that counted:
    min mean_{i in K} exp(H0 - H(p_i)) H(p_i) + a sum F (th - th0)^2 over the norm layers.

    The factor exp(...) has no gradient. F is the diagonal Fisher information over source examples. Nothing is learned
    from a batch without a K.
    """

    name = "eata"
    source = "Niu et al., arXiv:2204.02610; formulas and defaults of the authors' code, with Adam as TENT has it"
    when = "the stream is long and source examples are at hand"
    trains = "norm"
    needs = frozenset({"source examples"})
    order = "It learns less where labels come sorted, as predictions are then like the usual one."
    Options = EataOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        super()._prepare(source)
        assert source is not None
        assert isinstance(self.options, EataOptions)
        many = len(self.model.labels) >= _MANY
        self._margin = entropy_margin(len(self.model.labels), self.options.margin)
        self._most = self.options.redundancy or (0.05 if many else 0.4)
        self._weight = self.options.anchor if self.options.anchor is not None else (2000.0 if many else 1.0)
        self._usual: torch.Tensor | None = None
        self._start = plain(self._parameters)
        self._fisher = diagonal_fisher(self.model, source, self._parameters, self.options.source)

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        own = entropy(logits)
        probabilities = logits.detach().softmax(-1)
        kept = (own.detach() < self._margin) & unlike(probabilities, self._usual, self._most)
        self._usual = running_mean(self._usual, probabilities[kept])
        weight = torch.where(kept, (self._margin - own.detach()).exp(), torch.zeros_like(own.detach()))
        if not bool(kept.any()):
            return StreamLoss(None, kept, weight)
        value = (weight * own)[kept].mean()
        if self._weight:
            value = value + self._weight * anchor(self._parameters, self._start, self._fisher)
        return StreamLoss(value, kept, weight)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**super()._tensors(), **({} if self._usual is None else {"usual": self._usual})}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        super()._restore(tensors, values)
        if "usual" in tensors:
            check_shape("usual", tensors["usual"], torch.zeros(len(self.model.labels)))
        self._usual = tensors["usual"].to(self.model.device, copy=True) if "usual" in tensors else None
