"""Model Stock (Jang et al., arXiv:2403.19522): how far to walk from the base towards the mean, told by the angles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.merging.group import TensorGroup
from genepool.merging.parameters import Parameter, Site
from genepool.merging.registry import register
from genepool.merging.survey import Survey
from genepool.merging.weighted_sum import Gram, SumFactors, WeightedSum

if TYPE_CHECKING:
    import numpy as np
    import torch


def interpolation_ratio(products: np.ndarray[Any, Any], clamp: bool, floor: float = 0.0) -> np.ndarray[Any, Any]:
    """`N cos / (1 + (N-1) cos)` with the mean cosine over all pairs of deltas (eq. 3).

    Args:
        products: dot products of the N task vectors, `(..., N, N)`.
        clamp: keep the ratio in [0, 1], between the base and the mean.
        floor: the smallest product of two norms that a cosine is divided by; where it is 0, so is the cosine.

    Returns:
        The ratios, `(...)`. Zero where the formula has no value.
    """
    import numpy as np

    count = products.shape[-1]
    norms = np.sqrt(np.maximum(np.diagonal(products, axis1=-2, axis2=-1), 0))
    lengths = np.maximum(norms[..., :, None] * norms[..., None, :], floor)
    cosines = np.clip(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0), -1, 1)
    cos = (cosines.sum((-2, -1)) - np.diagonal(cosines, axis1=-2, axis2=-1).sum(-1)) / (count * (count - 1))
    divisor = 1 + (count - 1) * cos
    none = np.abs(divisor) < 1e-6
    ratio = np.where(none, 0.0, count * cos / np.where(none, 1.0, divisor))
    return np.clip(ratio, 0, 1) if clamp else ratio


@register
class ModelStock(WeightedSum):
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
        Parameter(
            "cosine_floor",
            0.0,
            "Smallest product of two norms that a cosine is divided by: shorter changes count as orthogonal.",
            low=0,
            source="1e-6 in mergekit",
        ),
    )

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        return None if shared["filter_wise"] else Gram(self)

    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors | None:
        if survey is None:
            return None
        ratio = float(interpolation_ratio(survey.total, shared["clamp"], shared["cosine_floor"]))
        return SumFactors([ratio] * len(per_model), len(per_model))

    def merge(self, group: TensorGroup, survey: Gram | None) -> torch.Tensor:
        import torch

        if survey is not None:
            return super().merge(group, survey)
        deltas = group.deltas
        by_row = deltas.transpose(0, 1)
        products = (by_row @ by_row.transpose(1, 2)).cpu().numpy()
        shared = group.shared
        ratio = torch.as_tensor(interpolation_ratio(products, shared["clamp"], shared["cosine_floor"])).unsqueeze(-1)
        return deltas.mean(0).mul_(ratio.to(deltas)).add_(group.base)
