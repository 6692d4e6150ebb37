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
from genepool.adaptation.stream_model import Inputs

# Times that the gains are put to rest on the source before the stream.
_RESTING = 200


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
        self._dictionary, self._first = leading_directions(images - self._mean, self.options.atoms)
        self._gains = self._first.clone()
        self._moments: tuple[torch.Tensor, torch.Tensor] | None = None
        for _ in range(_RESTING):
            self._gains = self._turned(images - self._mean, self._gains)[0]
        self._rest = self._gains.clone()

    def _turned(
        self, images: torch.Tensor, gains: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """One turn: the codes under some gains, then the gains under these codes; and the moments."""
        assert isinstance(self.options, GainControlOptions)
        codes = codes_of(images, self._dictionary, gains, self.options.cost)
        moments = moments_of(images, self._dictionary, codes)
        if self._moments is not None:
            keep, (square, cross) = self.options.decay, self._moments
            moments = (keep * square + (1 - keep) * moments[0], keep * cross + (1 - keep) * moments[1])
        return gains_of(moments, self._first, self.options.anchor), moments

    def shown(self, inputs: Inputs) -> Inputs:
        """The images as they would be under the gains at rest."""
        assert isinstance(self.options, GainControlOptions)
        given = inputs.whole(self._key)
        images = given.double().flatten(1).cpu() - self._mean
        codes = codes_of(images, self._dictionary, self._gains, self.options.cost)
        moved = (codes * (self._rest - self._gains)) @ self._dictionary.T
        return inputs.mapped(self._key, given + moved.view(given.shape).to(given.device, given.dtype))

    def look(self, inputs: Inputs) -> torch.Tensor:
        return self.model.probabilities(self.shown(inputs))

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        assert isinstance(self.options, GainControlOptions)
        images = batch.inputs.whole(self._key).double().flatten(1).cpu() - self._mean
        moments = self._moments
        for _ in range(self.options.steps):
            # Every turn begins at the moments of before: a batch counts once.
            self._gains, moments = self._turned(images, self._gains)
        self._moments = moments
        return Signals.all_alike(len(batch), kept=True)

    def _tensors(self) -> dict[str, torch.Tensor]:
        moments = {} if self._moments is None else {"square": self._moments[0], "cross": self._moments[1]}
        return {"gains": self._gains, **moments}

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        gains = tensors["gains"]
        check_shape("gains", gains, self._first)
        self._gains, self._moments = gains.clone(), None
        if "square" in tensors:
            check_shape("square", tensors["square"], torch.diag(self._first))
            check_shape("cross", tensors["cross"], self._first)
            self._moments = (tensors["square"].clone(), tensors["cross"].clone())


def leading_directions(images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Principal directions, shape (pixels, atoms), and the spread along each, shape (atoms,).

    Args:
        images: centred, shape (n, pixels), float64.
        count: of the atoms; no more than pixels, images or directions along which there is any spread.
    """
    _, spread, directions = torch.linalg.svd(images, full_matrices=False)
    spread = spread / max(1, len(images)) ** 0.5
    count = max(1, min(count, int((spread > 1e-6 * spread[0]).sum())))
    # The sign of a direction is the solver's whim.
    kept = directions[:count]
    sign = torch.sign(kept.gather(1, kept.abs().argmax(1, keepdim=True)))
    return (kept * sign).T, spread[:count]


def codes_of(images: torch.Tensor, dictionary: torch.Tensor, gains: torch.Tensor, cost: float) -> torch.Tensor:
    """The codes that cost the least, shape (n, atoms): r = (G D'D G + a I)^-1 G D's."""
    given = dictionary * gains
    square = given.T @ given + cost * torch.eye(len(gains), dtype=gains.dtype)
    found: torch.Tensor = torch.linalg.solve(square, given.T @ images.T)
    return found.T


def moments_of(
    images: torch.Tensor, dictionary: torch.Tensor, codes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over a batch that the gains follow from: D'D * E r r', (atoms, atoms), and E r * D's, (atoms,)."""
    square = (dictionary.T @ dictionary) * (codes.T @ codes) / len(images)
    return square, (codes * (images @ dictionary)).mean(0)


def gains_of(moments: tuple[torch.Tensor, torch.Tensor], first: torch.Tensor, anchor: float) -> torch.Tensor:
    """The gains that cost the least under moments, shape (atoms,)."""
    square, cross = moments
    held = square + anchor * torch.eye(len(first), dtype=first.dtype)
    found: torch.Tensor = torch.linalg.solve(held, cross + anchor * first)
    return found


def code_cost(
    images: torch.Tensor, dictionary: torch.Tensor, codes: torch.Tensor, gains: torch.Tensor, cost: float
) -> float:
    """The mean of ||s - D (g r)||^2 + a ||r||^2: how much it costs to write images down.

    Args:
        images: shape (n, pixels).
        dictionary: D, shape (pixels, atoms).
        codes: r, shape (n, atoms).
        gains: g, shape (atoms,).
        cost: a.
    """
    left = images - (codes * gains) @ dictionary.T
    return float((left.square().sum(1) + cost * codes.square().sum(1)).mean())
