"""Model Stock (Jang et al., arXiv:2403.19522): how far to walk from the base towards the mean, told by the angles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.method import Method, register
from genepool.merging.parameters import Parameter
from genepool.merging.survey import Sums, Survey, gram

if TYPE_CHECKING:
    import torch


def interpolation_ratio(products: torch.Tensor, clamp: bool) -> torch.Tensor:
    """`N cos / (1 + (N-1) cos)` with the mean cosine over all pairs of deltas (eq. 3).

    Args:
        products: dot products of the N task vectors, `(..., N, N)`.
        clamp: keep the ratio in [0, 1], between the base and the mean.

    Returns:
        The ratios, `(...)`. Zero where the formula has no value.
    """
    import torch

    count = products.shape[-1]
    norms = products.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    cosines = (products / (norms.unsqueeze(-1) * norms.unsqueeze(-2)).clamp_min(1e-6)).clamp(-1, 1)
    cos = (cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / (count * (count - 1))
    divisor = 1 + (count - 1) * cos
    ratio = torch.where(divisor.abs() < 1e-6, 0.0, count * cos / divisor)
    return ratio.clamp(0, 1) if clamp else ratio


@register
class ModelStock(Method):
    """Per tensor, `r * mean + (1 - r) * base` with r from the angles between the task vectors."""

    name = "model_stock"
    source = "Model Stock, Jang et al. 2024, arXiv:2403.19522"
    when = "Two or more fine-tunes of one base on the same task, with nothing to tune."
    formula = "th0 + r mean_i t_i,  r = N cos / (1 + (N-1) cos)"
    inputs = "deltas"
    base = "required"
    models = (2, None)
    parameters = (
        Parameter("filter_wise", False, "Take the angle per output row instead of per tensor.", kind=bool),
        Parameter("clamp", True, "Keep r in [0, 1], so that opposed models never extrapolate.", kind=bool),
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        return None if shared["filter_wise"] else Sums(lambda group: gram(group.deltas))

    def merge(self, group: TensorGroup, survey: Sums | None) -> torch.Tensor:
        deltas = group.deltas
        if survey is not None:
            products = survey.total
        else:
            by_row = deltas.transpose(0, 1)
            products = by_row @ by_row.transpose(1, 2)
        ratio = interpolation_ratio(products, group.shared["clamp"]).unsqueeze(-1)
        return deltas.mean(0).mul_(ratio.to(deltas)).add_(group.base)
