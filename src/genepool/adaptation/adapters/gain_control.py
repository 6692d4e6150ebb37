"""Gain control: the gains of a fixed dictionary follow the context, and images are put back to the source's gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from genepool.adaptation.augmentation import image_key
from genepool.adaptation.gains import FollowingGains, GainCosts
from genepool.adaptation.stream_model import Inputs


class GainControlOptions(AdapterOptions):
    """Options of gain control."""

    atoms: int = Field(default=32, ge=1, le=4096, description="Directions of the dictionary, each with a gain; ours.")
    cost: float = Field(default=0.01, gt=0, le=1e6, description="Weight a of the code's length; ours.")
    anchor: float = Field(default=0.01, gt=0, le=1e6, description="Weight c that holds the gains; ours.")
    decay: float = Field(default=0.9, ge=0, lt=1, description="Of the moments from a batch to the next; ours.")
    steps: int = Field(default=5, ge=1, le=1000, description="Turns of codes and gains in a batch; ours.")


class GainControl(StreamAdapter):
    """min over r, g of mean_i ||s_i - D (g r_i)||^2 + a ||r_i||^2, + c ||g - g0||^2; the dictionary D is fixed.

    s is an image less the source's mean image, D holds the leading principal directions of the source, and g0 the
    spread along each. The codes r are solved for a batch, then the gains g by moments that run on, in turns. The model
    is shown x + D ((gs - g) r), where gs are the gains at rest on the source: what the context amplifies is damped, and
    the reverse. No weight of the model is changed.
    """

    name = "gain_control"
    source = (
        "the objective of gain modulation with fixed weights, as in Duong et al., arXiv:2308.13633, from memory; what "
        "the model is shown, and all defaults, are ours"
    )
    when = "contrast or spread of the images changes, and the model must stay as it is"
    trains = "added"
    needs = frozenset({"source examples", "images"})
    order = "The gains follow the batches of before, so it lags where every batch is of another kind."
    Options = GainControlOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert source is not None
        assert isinstance(self.options, GainControlOptions)
        self._key = image_key(source.batches[0], self.model.title)
        images = torch.cat([one.whole(self._key).double().flatten(1).cpu() for one in source.batches])
        self._mean = images.mean(0)
        options = self.options
        costs = GainCosts(options.cost, options.anchor, options.decay, options.steps)
        self._following = FollowingGains(images - self._mean, options.atoms, costs)

    def shown(self, inputs: Inputs) -> Inputs:
        """The images as they would be under the gains at rest."""
        given, own = inputs.whole(self._key), self._following
        codes = own.codes(given.double().flatten(1).cpu() - self._mean)
        moved = (codes * (own.rest - own.gains)) @ own.dictionary.T
        return inputs.mapped(self._key, given + moved.view(given.shape).to(given.device, given.dtype))

    def look(self, inputs: Inputs) -> torch.Tensor:
        return self.model.probabilities(self.shown(inputs))

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        self._following.follow(batch.inputs.whole(self._key).double().flatten(1).cpu() - self._mean)
        return Signals.all_alike(len(batch), kept=True)

    def _tensors(self) -> dict[str, torch.Tensor]:
        own = self._following
        moments = {} if own.moments is None else {"square": own.moments[0], "cross": own.moments[1]}
        return {"gains": own.gains, **moments}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        own, gains = self._following, tensors["gains"]
        check_shape("gains", gains, own.first)
        own.gains, own.moments = gains.clone(), None
        if "square" in tensors:
            check_shape("square", tensors["square"], torch.diag(own.first))
            check_shape("cross", tensors["cross"], own.first)
            own.moments = (tensors["square"].clone(), tensors["cross"].clone())
