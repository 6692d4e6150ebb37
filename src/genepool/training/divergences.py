"""How far two predictions are apart: the divergences that objectives are made of. Uses torch alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def kullback_leibler(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL(wanted || found), in nats, of each row of logarithms of probabilities, (rows, choices) -> (rows,)."""
    return (wanted.exp() * (wanted - found)).sum(-1)


def jensen_shannon(teacher: torch.Tensor, student: torch.Tensor, beta: float) -> torch.Tensor:
    """The generalised Jensen-Shannon divergence of each row (Agarwal et al., arXiv:2306.13649, eq. 1), shape (rows,).

    Args:
        teacher, student: logarithms of probabilities, shape (rows, choices).
        beta: the teacher's share of the mixture; at 0 and 1 the limits KL(teacher || student) and the reverse.
    """
    import torch

    if beta == 0:
        return kullback_leibler(teacher, student)
    if beta == 1:
        return kullback_leibler(student, teacher)
    mixture = torch.logsumexp(torch.stack([student + math.log1p(-beta), teacher + math.log(beta)]), 0)
    return beta * kullback_leibler(teacher, mixture) + (1 - beta) * kullback_leibler(student, mixture)


def drawn_divergences(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Unbiased estimates of KL(policy || reference) at drawn tokens, never negative: exp(q - p) - (q - p) - 1.

    Args:
        policy, reference: log-likelihoods of tokens that were drawn from the policy.
    """
    away = reference - policy
    return away.exp() - away - 1
