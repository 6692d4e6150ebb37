"""Source prototypes: the mean feature of each class over source examples.

Shared by adapters that hold features near where the source had them. Uses the stream's model alone.
"""

from __future__ import annotations

import torch

from genepool.adaptation.adapter import SourceExamples
from genepool.adaptation.stream_model import StreamModel


def source_prototypes(model: StreamModel, source: SourceExamples) -> torch.Tensor:
    """The mean feature of each class, shape (classes, width); zeros for a class without an example.

    Args:
        model: as it was trained.
        source: examples with labels.
    """
    classes = len(model.labels)
    total, count = None, torch.zeros(classes)
    with torch.no_grad():
        for inputs, targets in zip(source.batches, source.targets, strict=True):
            features = model.features_and_logits(inputs)[0].cpu()
            member = torch.nn.functional.one_hot(targets, classes).float()
            part = member.T @ features
            total = part if total is None else total + part
            count += member.sum(0)
    assert total is not None
    return total / count.clamp_min(1).unsqueeze(-1)


def nearest_prototype(features: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """The prototype of the largest cosine with each feature, shape (n, width)."""
    similarity = torch.nn.functional.cosine_similarity(features.unsqueeze(1), prototypes.unsqueeze(0), dim=-1)
    return prototypes[similarity.argmax(-1)]
