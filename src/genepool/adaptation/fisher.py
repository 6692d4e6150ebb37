"""The diagonal of the Fisher information over source examples: which weights the source needs as they are.

Shared by adapters that anchor. Uses the stream's model alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from genepool.adaptation.adapter import SourceExamples
from genepool.adaptation.stream_model import StreamModel


def diagonal_fisher(
    model: StreamModel, source: SourceExamples, parameters: Mapping[str, torch.nn.Parameter], most: int
) -> dict[str, torch.Tensor]:
    """The mean over batches of the squared gradient of the cross-entropy with the model's own answers, by name.

    As the code of EATA has it: gradients are squared batch by batch, not example by example.

    Args:
        model: as it was trained.
        source: examples of its training; their labels are not read.
        parameters: with gradients on.
        most: examples that are used at most, in whole batches.
    """
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    batches, seen = 0, 0
    for inputs in source.batches:
        if seen >= most:
            break
        logits = model.logits(inputs)
        loss = torch.nn.functional.cross_entropy(logits, logits.detach().argmax(-1))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                found[name] += gradient.square()
        batches, seen = batches + 1, seen + inputs.count
    return {name: total / max(batches, 1) for name, total in found.items()}


def anchor(
    parameters: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor], fisher: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """sum F (th - th0)^2 over all parameters, a scalar with gradients.

    Args:
        parameters: as they are.
        start: as they were.
        fisher: how much each is needed.
    """
    parts = [(fisher[name] * (one - start[name]).square()).sum() for name, one in parameters.items()]
    return torch.stack(parts).sum()
