"""Formulas of logit space, as pure functions of logits; used by `rules`.

Logits have the shape (..., vocabulary); several models stand in front: (models, ..., vocabulary). A logit of minus
infinity says that a token is impossible or that its model cannot predict it.
"""

from __future__ import annotations

import torch


def shift(tuned: torch.Tensor, untuned: torch.Tensor) -> torch.Tensor:
    """What fine-tuning did to the log-probabilities; zero where either model cannot predict the token.

    Logits are known up to a constant only, and tokens that are not shifted would tell one constant from another.

    Args:
        tuned, untuned: logits of the fine-tuned model and of the one it was made of, of one shape.
    """
    difference = tuned.log_softmax(-1) - untuned.log_softmax(-1)
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
    """KL(softmax p || softmax q) in nats over the tokens that both can predict, shape (...)."""
    shared = p.isfinite() & q.isfinite()
    log_p, log_q = (one.masked_fill(~shared, float("-inf")).log_softmax(-1) for one in (p, q))
    return torch.where(shared, log_p.exp() * (log_p - log_q), torch.zeros_like(log_p)).sum(-1)


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
