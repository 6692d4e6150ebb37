"""Rules of fusion: how the logits of several models at a place become those of one.

A rule has a state a row and place: the scales of the token before, or the weights that the prompt's end decided. A
rule without one treats all places at once. `fused_network` keeps the states in its cache, so that beams and assisted
decoding move them with their tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from genepool.composition.logits import formulas
from genepool.composition.logits.dynamic import FusionProblem, best_scale, best_scales


class FusionRule(ABC):
    """How logits become one.

    Attributes:
        state_size: numbers a row that a place hands to the next one; 0 where places know nothing of each other.
    """

    state_size = 0

    @abstractmethod
    def fuse(
        self, lead: torch.Tensor, others: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The fused logits and the state behind these places.

        Args:
            lead: logits of the leading model, (..., vocabulary); (rows, vocabulary) where there is a state.
            others: logits of the other models in their order, (models, ..., vocabulary).
            state: of the place before, (rows, state_size); NaN at a row's first place, None for rules without one.
        """


class Shifted(FusionRule):
    """`lead + sum_i scale_i (tuned_i - untuned)`: proxy tuning and emulated fine-tuning.

    Args:
        scales: one a skill.
        untuned: whether the last of the other models is the one that the skills were made of; it is the leading
            model itself otherwise.
        share: keep only tokens with this share of the leading model's likeliest one; 0 keeps all.
    """

    def __init__(self, scales: tuple[float, ...], *, untuned: bool, share: float = 0.0) -> None:
        self.scales, self.untuned, self.share = scales, untuned, share

    def fuse(
        self, lead: torch.Tensor, others: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `FusionRule.fuse`."""
        tuned, untuned = parted(lead, others, self.untuned)
        scales = torch.tensor(self.scales, dtype=lead.dtype, device=lead.device)
        fused = formulas.shifted(lead, formulas.shift(tuned, untuned.expand_as(tuned)), scales)
        return (formulas.plausible(fused, lead, self.share) if self.share else fused), None


class DynamicFusion(FusionRule):
    """Dynamic logit fusion: scales by `dynamic`, a token's from those of the token before.

    Args:
        skills: their number.
        untuned: as for `Shifted`.
    """

    def __init__(self, skills: int, *, untuned: bool) -> None:
        # A single scale is searched for anew at each place.
        self.skills, self.untuned, self.state_size = skills, untuned, skills if skills > 1 else 0

    def fuse(
        self, lead: torch.Tensor, others: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `FusionRule.fuse`."""
        tuned, untuned = parted(lead, others, self.untuned)
        shape = lead.shape
        rows, words = lead.reshape(-1, shape[-1]), (self.skills, -1, shape[-1])
        # In float64, because a step is taken or not by small differences, which rounding would decide otherwise for
        # the same row in another batch.
        problem = FusionProblem.of(
            rows.double(), tuned.reshape(words).double(), untuned.reshape(-1, shape[-1]).double()
        )
        if state is None:
            scales = best_scale(problem)
        else:
            # The first token's start is ours: an equal part of what one skill alone would have.
            scales = best_scales(problem, torch.where(state.isnan(), 1 / self.skills, state).T.double())
        scales = scales.to(lead.dtype)
        fused = formulas.shifted(rows, problem.shifts.to(lead.dtype), scales).reshape(shape)
        return fused, None if state is None else scales.T


class WeightedByShift(FusionRule):
    """Weighting without training: a skill's weight is how far it moved from the base at the prompt's end.

    Args:
        skills: their number.
        temperature: of the softmax over skills; the default of 0.1 is ours.
    """

    def __init__(self, skills: int, temperature: float) -> None:
        self.state_size, self.temperature = skills, temperature

    def fuse(
        self, lead: torch.Tensor, others: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `FusionRule.fuse`."""
        assert state is not None
        weights = state.T
        if (beginning := state.isnan().any(-1)).any():
            weights = torch.where(beginning, formulas.shift_weights(others, lead, self.temperature), weights)
        return formulas.shifted(lead, formulas.shift(others, lead.expand_as(others)), weights), weights.T


def parted(lead: torch.Tensor, others: torch.Tensor, untuned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The skills' logits and those of the model that they were made of."""
    return (others[:-1], others[-1]) if untuned else (others, lead)
