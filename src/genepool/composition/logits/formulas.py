"""Formulas of logit space, as pure functions of logits; used by `rules`.

Logits have the shape (..., vocabulary); several models stand in front: (models, ..., vocabulary). A logit of minus
infinity says that a token is impossible or that its model cannot predict it.
"""

from __future__ import annotations

import torch


def shift(tuned: torch.Tensor, untuned: torch.Tensor) -> torch.Tensor:
    """What fine-tuning did to the logits; zero where either model cannot predict the token.

    Args:
        tuned, untuned: logits of the fine-tuned model and of the one it was made of, of one shape.
    """
    difference = tuned - untuned
    return torch.where(difference.isfinite(), difference, torch.zeros_like(difference))


def shifted(lead: torch.Tensor, shifts: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """`lead + sum_i scales_i shifts_i`.

    Args:
        lead: logits of the leading model, (..., vocabulary).
        shifts: what every skill did, (skills, ..., vocabulary).
        scales: (skills,), or (skills, ...) with a factor a place.
    """
    factors = scales.reshape(*scales.shape, *[1] * (shifts.dim() - scales.dim()))
    return lead + (factors * shifts).sum(0)


def plausible(logits: torch.Tensor, judge: torch.Tensor, share: float) -> torch.Tensor:
    """Logits in which a token is impossible when `judge` gives it less than `share` of its likeliest token's chance.

    Args:
        logits: what is cut, (..., vocabulary).
        judge: logits of the model that decides what is plausible, of the same shape.
        share: 0.1 in contrastive decoding (Li et al. 2022, section 3.3).
    """
    floor = judge.max(-1, keepdim=True).values + torch.tensor(share, dtype=judge.dtype).log()
    return logits.masked_fill(judge < floor, float("-inf"))


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(softmax p || softmax q) in nats, shape (...); a token that is impossible under p adds nothing."""
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    terms = log_p.exp() * (log_p - log_q)
    return torch.where(log_p == float("-inf"), torch.zeros_like(terms), terms).sum(-1)


def shift_weights(tuned: torch.Tensor, lead: torch.Tensor, temperature: float) -> torch.Tensor:
    """Weights without training: the skill whose prediction moved furthest from the base knows this prompt.

    Args:
        tuned: logits of every skill at one place, (skills, ..., vocabulary).
        lead: logits of the base there, (..., vocabulary).
        temperature: of the softmax over skills.

    Returns:
        `softmax_i(KL(skill_i || base) / temperature)`, (skills, ...).
    """
    moved = divergence(tuned, lead.expand_as(tuned))
    return (moved / temperature).softmax(0)
