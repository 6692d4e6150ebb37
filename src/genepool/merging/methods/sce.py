"""SCE (Wan et al., FuseChat, arXiv:2408.07990): select where models differ, weigh by what moved, erase the minority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.survey import Chain, Sums, Survey, Thresholds

if TYPE_CHECKING:
    import torch


# The smallest positive float32: what never differs between the models is not selected for being among the top.
_DIFFERS = 2.0**-149


class SelectionSurvey(Chain):
    """The smallest selected variance (two passes, none when all is selected), then squares of what is selected."""

    def __init__(self, share: float, numel: int) -> None:
        # Survey counts by vector, and this one is a single vector made of all models.
        variance = Thresholds([int(share * numel)], lambda group: variances(group.deltas).unsqueeze(0))
        self._variance = variance if share < 1 else None
        self._squares = Sums(lambda group: selected(group, self).square_().sum((1, 2)))
        super().__init__([self._squares] if self._variance is None else [self._variance, self._squares])

    @property
    def threshold(self) -> float:
        """The smallest selected variance; 0 when everything is."""
        return 0.0 if self._variance is None else max(self._variance.values[0], _DIFFERS)

    @property
    def weights(self) -> list[float]:
        """Each model's share of the squares."""
        squares = self._squares.total
        total = float(squares.sum())
        return [square / total if total > 0 else 0.0 for square in squares.tolist()]


def variances(deltas: torch.Tensor) -> torch.Tensor:
    """Per entry the variance over the models, times their number; the order is what counts."""
    mean = deltas.mean(0)
    total = (deltas[0] - mean).square_()
    for delta in deltas[1:]:
        total.add_((delta - mean).square_())
    return total


def selected(group: TensorGroup, survey: SelectionSurvey) -> torch.Tensor:
    """The task vectors, zero where the variance is below the threshold."""
    deltas = group.deltas
    if survey.threshold > 0:
        deltas.masked_fill_(variances(deltas) < survey.threshold, 0.0)
    return deltas


@register
class Sce(Method):
    """Weights of the models per tensor from the squares of their changes; signs elected by the plain sum."""

    name = "sce"
    source = "FuseChat, Wan et al. 2024, arXiv:2408.07990, section 3.3"
    when = "Models that learnt from different teachers or data, with nothing to tune but the share selected."
    formula = "th0 + mean over agreeing i of w_i s t_i,  w_i ~ sum (s t_i)^2,  s: top entries by variance over models"
    inputs = "deltas"
    base = "required"
    parameters = (
        Parameter(
            "select_topk", 0.1, "Share of entries selected in each tensor, those that differ most between the models.",
            low=0, high=1, source="section 4: top 10%",
        ),
    )  # fmt: skip

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return SelectionSurvey(shared["select_topk"], numel)

    def merge(self, group: TensorGroup, survey: SelectionSurvey) -> torch.Tensor:
        ones = [1.0] * len(group.per_model)
        merged, _ = kernels.elect(selected(group, survey), survey.weights, votes=ones, normalize=True)
        return merged.add_(group.base)
