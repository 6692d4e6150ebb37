"""Dynamic logit fusion: at every token, scales under which the large model moves as far as the small experts did.

With `P = softmax(lead)`, `P~ = softmax(lead + sum_t a_t D_t)`, `D_t = S_t - S`, the scales minimise

    sum_t (KL(P~ || P) - KL(Q_t || Q))^2 + (KL(P || P~) - KL(Q || Q_t))^2     for a in [0, 2]^k

(Fan et al. 2024, "On Giant's Shoulders", section 3). Both divergences have gradients in closed form: that of
`KL(P~ || P)` is `Cov_P~(D) a`, that of `KL(P || P~)` is `E_P~[D] - E_P[D]`. So nothing is differentiated by torch, and
many rows are solved at once. Used by `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genepool.composition.logits.formulas import divergence, shift

HIGHEST = 2.0
# Intervals that a scalar search first looks at, and how often it then divides the best of them by the golden ratio:
# 2 / 16 * .618^20 is 1e-5, far below what a logit in float32 can tell.
_INTERVALS, _DIVISIONS = 16, 20
_GOLDEN = (5**0.5 - 1) / 2
STEPS = 20


@dataclass(frozen=True)
class FusionProblem:
    """What the scales of some rows have to reach.

    Attributes:
        lead: log-probabilities of the leading model, (rows, vocabulary).
        shifts: what each expert's fine-tuning did to its logits, (experts, rows, vocabulary).
        forward: KL(Q_t || Q), how far each expert moved, (experts, rows).
        backward: KL(Q || Q_t), (experts, rows).
    """

    lead: torch.Tensor
    shifts: torch.Tensor
    forward: torch.Tensor
    backward: torch.Tensor

    @classmethod
    def of(cls, lead: torch.Tensor, tuned: torch.Tensor, untuned: torch.Tensor) -> FusionProblem:
        """The problem of some rows.

        Args:
            lead: logits of the large model, (rows, vocabulary).
            tuned: logits of the small experts, (experts, rows, vocabulary).
            untuned: logits of the small model they were made of, (rows, vocabulary).
        """
        small = untuned.expand_as(tuned)
        return cls(lead.log_softmax(-1), shift(tuned, small), divergence(tuned, small), divergence(small, tuned))

    def moved(self, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """How far the large model moves, and how that changes with the scales.

        Args:
            scales: (experts, rows).

        Returns:
            KL(P~ || P) and KL(P || P~), (rows,) each; their gradients, (experts, rows) each.
        """
        step = (scales.unsqueeze(-1) * self.shifts).sum(0)
        logits = self.lead + step
        total = logits.logsumexp(-1)
        after, before = (logits - total.unsqueeze(-1)).exp(), self.lead.exp()
        mean_after, mean_before = (self.shifts * after).sum(-1), (self.shifts * before).sum(-1)
        step_after, step_before = (step * after).sum(-1), (step * before).sum(-1)
        covariance = (self.shifts * (after * (step - step_after.unsqueeze(-1)))).sum(-1)
        return step_after - total, total - step_before, covariance, mean_after - mean_before

    def loss(self, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of squares, (rows,), and its gradient, (experts, rows)."""
        forward, backward, forward_slope, backward_slope = self.moved(scales)
        missing_forward, missing_backward = forward - self.forward, backward - self.backward
        value = missing_forward.square().sum(0) + missing_backward.square().sum(0)
        slope = 2 * (missing_forward.sum(0) * forward_slope + missing_backward.sum(0) * backward_slope)
        return value, slope


def best_scale(problem: FusionProblem) -> torch.Tensor:
    """The scale of a single expert, by a bounded search that needs no start: (1, rows).

    Both divergences grow with the scale, so the loss has its minimum between the scales that reach one of them each.
    """
    rows = problem.lead.shape[0]
    grid = torch.linspace(0, HIGHEST, _INTERVALS + 1, dtype=problem.lead.dtype, device=problem.lead.device)
    values = torch.stack([problem.loss(at.expand(1, rows))[0] for at in grid])
    width = HIGHEST / _INTERVALS
    middle = grid[values.nan_to_num(float("inf")).argmin(0)]
    low, high = (middle - width).clamp_min(0), (middle + width).clamp_max(HIGHEST)
    for _ in range(_DIVISIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        falls = problem.loss(left.unsqueeze(0))[0] > problem.loss(right.unsqueeze(0))[0]
        low, high = torch.where(falls, left, low), torch.where(falls, high, right)
    # A minimum on a bound is at an end of what is left.
    ends = torch.stack([(low + high) / 2, low, high])
    best = torch.stack([problem.loss(at.unsqueeze(0))[0] for at in ends]).nan_to_num(float("inf")).argmin(0)
    return ends.gather(0, best.unsqueeze(0))


def best_scales(problem: FusionProblem, start: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """The scales of several experts, by projected gradient from those of the token before: (experts, rows).

    Each row has its own step size: a step that lowers its loss is taken and makes the next one longer, any other is
    not taken and halves it. So no row ever ends above its start.

    Args:
        problem: what is to be reached.
        start: (experts, rows), within the bounds.
        steps: 20 in the authors' paper.
    """
    scales = start.clamp(0, HIGHEST)
    value, slope = problem.loss(scales)
    # The first step moves the scale that moves most by a quarter.
    length = 0.25 / slope.abs().amax(0).clamp_min(1e-12)
    for _ in range(steps):
        tried = (scales - length * slope).clamp(0, HIGHEST)
        tried_value, tried_slope = problem.loss(tried)
        better = tried_value < value
        scales = torch.where(better, tried, scales)
        slope = torch.where(better, tried_slope, slope)
        value = torch.where(better, tried_value, value)
        length = torch.where(better, 1.5 * length, 0.5 * length)
    return scales
