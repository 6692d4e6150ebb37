"""Gains that follow a context: images are written as a dictionary times gains times codes, and the dictionary is fixed.

Plain tensors in and out, float64, an image a row less the mean image of the source. `gain_control` shows a model what
comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Times that the gains are put to rest on the source.
_RESTING = 200

Moments = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class GainCosts:
    """What is minimised, and how fast it is followed.

    Attributes:
        code: weight a of the code's length.
        anchor: weight c that holds the gains.
        decay: of the moments from a batch to the next.
        steps: turns of codes and gains in a batch.
    """

    code: float
    anchor: float
    decay: float
    steps: int


class FollowingGains:
    """min over r, g of mean_i ||s_i - D (g r_i)||^2 + a ||r_i||^2, + c ||g - g0||^2, batch by batch.

    D holds the leading principal directions of the source, and g0 the spread along each.

    Args:
        images: of the source, centred, shape (n, pixels), float64.
        atoms: directions of the dictionary, at most.
        costs: the weights.

    Attributes:
        dictionary: D, shape (pixels, atoms).
        first: g0, shape (atoms,).
        gains: g.
        rest: g where it rests on the source.
        moments: those that run on; None before the first batch.
    """

    def __init__(self, images: torch.Tensor, atoms: int, costs: GainCosts) -> None:
        self.costs = costs
        self.dictionary, self.first = leading_directions(images, atoms)
        self.gains = self.first.clone()
        self.moments: Moments | None = None
        for _ in range(_RESTING):
            self.gains = self._turned(images, self.gains)[0]
        self.rest = self.gains.clone()

    def _turned(self, images: torch.Tensor, gains: torch.Tensor) -> tuple[torch.Tensor, Moments]:
        """One turn: the codes under some gains, then the gains under these codes; and the moments."""
        moments = moments_of(images, self.dictionary, self.codes(images, gains))
        if self.moments is not None:
            keep, (square, cross) = self.costs.decay, self.moments
            moments = (keep * square + (1 - keep) * moments[0], keep * cross + (1 - keep) * moments[1])
        return gains_of(moments, self.first, self.costs.anchor), moments

    def codes(self, images: torch.Tensor, gains: torch.Tensor | None = None) -> torch.Tensor:
        """The codes of images, shape (n, atoms), under some gains; under its own when None."""
        return codes_of(images, self.dictionary, self.gains if gains is None else gains, self.costs.code)

    def follow(self, images: torch.Tensor) -> None:
        """Lets the gains follow a batch."""
        moments = self.moments
        for _ in range(self.costs.steps):
            # Every turn begins at the moments of before: a batch counts once.
            self.gains, moments = self._turned(images, self.gains)
        self.moments = moments


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


def code_costs(
    images: torch.Tensor, dictionary: torch.Tensor, codes: torch.Tensor, gains: torch.Tensor, cost: float
) -> torch.Tensor:
    """||s - D (g r)||^2 + a ||r||^2 of each image, shape (n,): how much it costs to write it down.

    Args:
        images: shape (n, pixels).
        dictionary: D, shape (pixels, atoms).
        codes: r, shape (n, atoms).
        gains: g, shape (atoms,).
        cost: a.
    """
    left = images - (codes * gains) @ dictionary.T
    return left.square().sum(1) + cost * codes.square().sum(1)
