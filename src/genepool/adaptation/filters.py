"""Which examples of a batch an adapter learns from: sure ones, ones unlike the usual prediction, ones that agree.

Shared by adapters that filter. Every function takes logits or probabilities of a batch and gives one value an example.
"""

from __future__ import annotations

import math

import torch

from genepool.adaptation.stream_model import entropy


def entropy_margin(classes: int, share: float = 0.4) -> float:
    """The entropy, in nats, below which a prediction counts as sure.

    Args:
        classes: their number.
        share: of the largest entropy there is; 0.4 in the code of EATA and SAR.
    """
    return share * math.log(classes)


def sure(logits: torch.Tensor, margin: float) -> torch.Tensor:
    """Whether the entropy of each prediction is below a margin, shape (n,), bool."""
    return entropy(logits.detach()) < margin


def unlike(probabilities: torch.Tensor, usual: torch.Tensor | None, most: float) -> torch.Tensor:
    """Whether each prediction is unlike the usual one, shape (n,), bool: |cosine| below a margin.

    Args:
        probabilities: shape (n, classes).
        usual: the running mean of predictions, shape (classes,); None while there is none, and all are unlike it.
        most: the largest cosine.
    """
    if usual is None:
        return torch.ones(len(probabilities), dtype=torch.bool, device=probabilities.device)
    return torch.nn.functional.cosine_similarity(usual.unsqueeze(0), probabilities, dim=1).abs() < most


def agreeing(probabilities: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Whether the adapted model is at least as sure of the source's answer as the source is, shape (n,), bool.

    Args:
        probabilities: of the adapted model, shape (n, classes).
        before: of the source.
    """
    answer = before.argmax(-1, keepdim=True)
    return (probabilities.gather(-1, answer) >= before.gather(-1, answer)).squeeze(-1)


def running_mean(usual: torch.Tensor | None, kept: torch.Tensor, decay: float = 0.9) -> torch.Tensor | None:
    """The running mean of predictions after a batch.

    Args:
        usual: before it; None at first.
        kept: the predictions that count, shape (k, classes); with none of them nothing changes.
        decay: of what was before.
    """
    if not len(kept):
        return usual
    return kept.mean(0) if usual is None else decay * usual + (1 - decay) * kept.mean(0)
