"""RMT: a mean teacher, a symmetric loss under augmentation, and features held near the source's prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from genepool.adaptation.adapter import Answered, Signals, SourceExamples, StreamBatch
from genepool.adaptation.augmentation import augmented
from genepool.adaptation.gradient import GradientAdapter, RateOptions, StreamLoss
from genepool.adaptation.mean_teacher import MeanTeacher, symmetric
from genepool.adaptation.prototypes import nearest_prototype, source_prototypes
from genepool.adaptation.stream_model import Inputs
from genepool.seeding import torch_generator


class RmtOptions(RateOptions):
    """Options of RMT."""

    decay: float = Field(default=0.999, ge=0, le=1, description="Of the teacher's weights; the authors' code.")
    symmetry: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the reverse cross-entropy; the authors' code."
    )
    temperature: float = Field(default=0.1, gt=0, description="Of the contrast; the authors' code.")
    contrast: float = Field(default=1.0, ge=0, description="Weight of the contrast; the authors' code.")
    replay: float = Field(
        default=1.0, ge=0, description="Weight of the cross-entropy on a batch of source examples; the authors' code."
    )
    projection: int = Field(
        default=128, ge=0, le=4096, description="Width of the head of the contrast, 0 for none; the authors' code."
    )


class Rmt(GradientAdapter):
    """min .5 S(p, t) + .5 S(p~, t) + c L + r CE(source) over all weights; S(p, t) = -(1 - a) sum t ln p - a sum p ln t.

    t is the mean teacher's prediction and p~ that for the changed image. L is a supervised contrast of three views of
    an example: the nearest source prototype, its feature and that of the changed image. Student's plus teacher's logits
    are issued. The views go through a head of two layers, which
    learns with the rest. The released code also warms the teacher up on source examples; that is left out.
    """

    name = "rmt"
    source = "Döbler et al., arXiv:2211.13081; formulas and defaults of the authors' code, without its warm-up"
    when = "source examples are at hand: they keep most of what the model knew"
    trains = "all"
    needs = frozenset({"source examples", "features", "images", "several examples"})
    order = "It matters less than for others."
    Options = RmtOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert source is not None
        assert isinstance(self.options, RmtOptions)
        self._teacher = MeanTeacher(self.model, self.options.decay)
        self._prototypes = source_prototypes(self.model, source).to(self.model.device)
        self._replayed = source
        super()._prepare(source)

    def added(self, source: SourceExamples | None) -> dict[str, torch.nn.Parameter]:
        assert isinstance(self.options, RmtOptions)
        layer, width = self.model.last_layer(), self.options.projection
        assert layer is not None
        found: dict[str, torch.nn.Parameter] = {}
        for name, given in (("first", layer.in_features), ("second", width)) if width else ():
            for part, shape in (("weight", (width, given)), ("bias", (width,))):
                generator = torch_generator(self.seed, "rmt head", name, part)
                drawn = (2 * torch.rand(shape, generator=generator) - 1) * given**-0.5
                found[f"{name} {part}"] = torch.nn.Parameter(drawn.to(self.model.device))
        return found

    def _projected(self, views: torch.Tensor) -> torch.Tensor:
        """What the head makes of features, which stand in the last place."""
        own = self._added
        if not own:
            return views
        inner = torch.nn.functional.linear(views, own["first weight"], own["first bias"]).relu()
        return torch.nn.functional.linear(inner, own["second weight"], own["second bias"])

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        super().predict(batch)
        assert self._forward is not None
        self._taught = self._teacher.logits(batch.inputs)
        return (self._forward[1].detach() + self._taught).softmax(-1).cpu()

    def look(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return (self.model.logits(inputs) + self._teacher.logits(inputs)).softmax(-1).cpu()

    def loss(self, batch: StreamBatch, logits: torch.Tensor) -> StreamLoss:
        assert isinstance(self.options, RmtOptions)
        options = self.options
        changed = augmented(batch.inputs, self.seed, batch.number, "student", self.model.title)
        features, _ = self.model.features_and_logits(batch.inputs)
        features_changed, logits_changed = self.model.features_and_logits(changed)
        parts = [symmetric(one, self._taught, options.symmetry).mean() for one in (logits, logits_changed)]
        value = 0.5 * parts[0] + 0.5 * parts[1]
        if options.contrast:
            views = [nearest_prototype(features.detach(), self._prototypes), features, features_changed]
            value = value + options.contrast * contrast(self._projected(torch.stack(views, 1)), options.temperature)
        if options.replay:
            at = batch.number % len(self._replayed.batches)
            source = self.model.logits(self._replayed.batches[at])
            targets = self._replayed.targets[at].to(source.device)
            value = value + options.replay * torch.nn.functional.cross_entropy(source, targets)
        return StreamLoss(value, torch.ones(len(batch), dtype=torch.bool))

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        signals = super().update(batch, late)
        self._teacher.follow(self.trained())
        return signals

    def _tensors(self) -> dict[str, torch.Tensor]:
        teacher = self._teacher.tensors(self.trained())
        return {**super()._tensors(), **{f"teacher {name}": tensor for name, tensor in teacher.items()}}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        super()._restore(tensors, values)
        mark = "teacher "
        self._teacher.restore({n.removeprefix(mark): one for n, one in tensors.items() if n.startswith(mark)})


def contrast(views: torch.Tensor, temperature: float) -> torch.Tensor:
    """The contrast of several views of each example (Khosla et al., arXiv:2004.11362, without labels), a scalar.

    Args:
        views: shape (n, views, width).
        temperature: of the similarities.
    """
    count, kinds, _ = views.shape
    points = torch.nn.functional.normalize(views, dim=-1).transpose(0, 1).reshape(count * kinds, -1)
    similarity = points @ points.T / temperature
    itself = torch.eye(count * kinds, dtype=torch.bool, device=points.device)
    logs = similarity.masked_fill(itself, float("-inf")).log_softmax(-1)
    alike = torch.eye(count, dtype=torch.bool, device=points.device).repeat(kinds, kinds) & ~itself
    return -logs.masked_fill(~alike, 0.0).sum(-1).div(kinds - 1).mean()
