"""ROID: a loss that does not vanish for sure predictions, weights by certainty and diversity, a pull to the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.augmentation import augmented, image_key, reads_images
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.mean_teacher import symmetric
from genepool.adaptation.stream_model import Inputs, entropy, plain

# As in the authors' code: where a probability is cut, and how fast the usual prediction follows.
_CLIP, _DECAY, _TINY = 0.99, 0.9, 1e-5


class RoidOptions(RateOptions):
    """Options of ROID."""

    temperature: float = Field(default=1 / 3, gt=0, description="How unequal the weights are; the authors' code.")
    keep: float = Field(
        default=0.99, ge=0, le=1, description="Share of the adapted weights after a step, the rest is the source's."
    )
    consistency: float = Field(
        default=1.0, ge=0, description="Weight of the loss under augmentation; the authors' code. 0 leaves it out."
    )
    prior: bool = Field(default=True, description="Correct the predictions of a batch by their mean.")


class Roid(GradientAdapter):
    """min 1/n sum_i w_i (L_i + c S(p~_i, p_i)) over the norms; L_i = -sum_c p_ic ln(p_ic / (1 - p_ic)), p cut at .99.

    With q the running mean of predictions (.9 old, uniform at first), d_i = 1 - cos(p_i, q) and s_i = -H(p_i), both put
    between 0 and 1 over the batch: w_i = exp(d_i s_i / T), and 0 where d_i is below its mean. After the step
    th <- k th + (1 - k) th0. What is issued is p_i times the smoothed mean prediction of the batch, normalised.

    p~_i is the prediction for the changed image, S(p, t) = -.5 sum t ln p - .5 sum p ln t. This part is left out for
    models that read no images.
    """

    name = "roid"
    source = "Marsden et al., arXiv:2306.00650; formulas and defaults of the authors' code, with augmentations of ours"
    when = "the stream is long and nothing of the source is at hand but the weights"
    trains = "norm"
    needs = frozenset({"several examples"})
    order = "The correction of predictions helps where labels come sorted."
    Options = RoidOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        super()._prepare(source)
        classes = len(self.model.labels)
        self._usual = torch.full((classes,), 1 / classes, device=self.model.device)
        self._start = plain(self._parameters)

    @property
    def augments(self) -> bool:
        assert isinstance(self.options, RoidOptions)
        return self.options.consistency > 0

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        assert isinstance(self.options, RoidOptions)
        found = super().predict(batch)
        return prior_corrected(found) if self.options.prior else found

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        assert isinstance(self.options, RoidOptions)
        probabilities = logits.detach().softmax(-1)
        unlike = 1 - torch.nn.functional.cosine_similarity(self._usual.unsqueeze(0), probabilities, dim=1)
        unlike, certain = stretched(unlike), stretched(-entropy(logits.detach()))
        kept = unlike >= unlike.mean()
        weight = torch.where(kept, (unlike * certain / self.options.temperature).exp(), torch.zeros_like(unlike))
        self._usual = _DECAY * self._usual + (1 - _DECAY) * probabilities.mean(0)
        each = likelihood_ratio(logits)
        if self.augments and reads_images(batch.inputs):
            each = each + self.options.consistency * self._inconsistency(batch, logits, kept)
        return StreamLoss((weight * each).sum() / len(batch), kept, weight)

    def _inconsistency(self, batch: StreamBatch, logits: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """S for each example that is kept, 0 for others; shape (n,)."""
        changed = augmented(batch.inputs, self.seed, batch.number, "roid", self.model.title)
        key = image_key(changed, self.model.title)
        found = torch.zeros_like(logits[:, 0])
        count = int(kept.sum())
        # A batch norm compares what it is given, and a single image may be a single value.
        if count < (2 if self.model.has_batch_norm else 1):
            return found
        seen = self.model.logits(Inputs(((tuple(range(count)), {key: changed.whole(key)[kept]}),), count))
        found[kept] = symmetric(seen, logits[kept], 0.5)
        return found

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, RoidOptions)
        signals = super().update(batch, late)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.mul_(self.options.keep).add_(self._start[name], alpha=1 - self.options.keep)
        return signals

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**super()._tensors(), "usual": self._usual}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        super()._restore(tensors, values)
        self._usual = tensors["usual"].to(self.model.device, copy=True)


def likelihood_ratio(logits: torch.Tensor) -> torch.Tensor:
    """The soft likelihood ratio of each prediction, shape (n,)."""
    probabilities = logits.softmax(-1).clamp(0, _CLIP)
    found: torch.Tensor = -(probabilities * (probabilities / (1 - probabilities) + _TINY).log()).sum(-1)
    return found


def stretched(values: torch.Tensor) -> torch.Tensor:
    """Values put between 0 and 1; all 0 where they are alike."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


def prior_corrected(probabilities: torch.Tensor) -> torch.Tensor:
    """Predictions times the smoothed mean of their batch, normalised, shape (n, classes)."""
    count, classes = probabilities.shape
    prior = probabilities.mean(0)
    smooth = max(1 / count, 1 / classes) / prior.max()
    found = probabilities * ((prior + smooth) / (1 + smooth * classes))
    return found / found.sum(-1, keepdim=True)
