"""Model Stock (Jang et al., arXiv:2403.19522): how far to walk from the base towards the mean, told by the angles."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch

from genepool.merging.method import Method, TensorGroup, register
from genepool.merging.parameters import Parameter


def interpolation_ratio(deltas: list[torch.Tensor], clamp: bool) -> torch.Tensor:
    """`N cos / (1 + (N-1) cos)` with the mean cosine over all pairs of deltas (eq. 3).

    Args:
        deltas: N task vectors, `(rows, columns)` or flat; the angle is taken along the last axis.
        clamp: keep the ratio in [0, 1], between the base and the mean.

    Returns:
        One ratio per row, last axis kept with length 1. Zero where the formula has no value.
    """
    norms = [torch.linalg.vector_norm(d, dim=-1, keepdim=True) for d in deltas]
    cosines = [
        ((deltas[i] * deltas[j]).sum(-1, keepdim=True) / (norms[i] * norms[j]).clamp_min(1e-6)).clamp(-1, 1)
        for i, j in combinations(range(len(deltas)), 2)
    ]
    cos = torch.stack(cosines).mean(0)
    divisor = 1 + (len(deltas) - 1) * cos
    ratio = torch.where(divisor.abs() < 1e-6, 0.0, len(deltas) * cos / divisor)
    return ratio.clamp(0, 1) if clamp else ratio


@register
class ModelStock(Method):
    """Per tensor, `r * mean + (1 - r) * base` with r from the angles between the task vectors."""

    name = "model_stock"
    source = "Model Stock, Jang et al. 2024, arXiv:2403.19522"
    when = "Two or more fine-tunes of one base on the same task, with nothing to tune."
    formula = "th0 + r mean_i t_i,  r = N cos / (1 + (N-1) cos)"
    kind = "deltas"
    base = "required"
    models = (2, None)
    parameters = (
        Parameter("filter_wise", False, "Take the angle per output row instead of per tensor.", kind=bool),
        Parameter("clamp", True, "Keep r in [0, 1], so that opposed models never extrapolate.", kind=bool),
    )

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        shape = group.base.shape
        rows = group.shared["filter_wise"] and len(shape) > 1
        deltas = [delta.reshape(*shape) if rows else delta.reshape(-1) for delta in group.deltas]
        mean = torch.stack(deltas).mean(0)
        return group.base + (interpolation_ratio(deltas, group.shared["clamp"]) * mean).reshape(shape)
