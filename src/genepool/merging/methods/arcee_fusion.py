"""Arcee Fusion (Arcee AI): take over the entries that stand out in importance, leave the rest at the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.selection import Selection
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.registry import register
from genepool.merging.survey import Survey

if TYPE_CHECKING:
    import torch


def divergences(rows: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(softmax(row) || softmax(base row)) of each row, `(rows, 1)` float32.

    In float64: the rows of a fine-tune differ so little that the terms of the sum cancel to the last float32 digit.
    """
    log_p, log_q = rows.double().log_softmax(-1), base.double().log_softmax(-1)
    # Below zero only by rounding.
    return log_q.neg_().add_(log_p).mul_(log_p.exp_()).sum(-1, keepdim=True).clamp_min_(0).float()


class ImportanceSurvey(Survey):
    """Quartiles of the importance |x - th0| * KL(row) over one tensor, exactly; the rows' divergences are kept."""

    passes = Selection.passes

    def __init__(self, numel: int) -> None:
        # The quantile q of n numbers is the one at floor(q (n - 1)) from the smallest.
        self._selection = Selection([numel - int(q * (numel - 1)) for q in (0.25, 0.5, 0.75)])
        self._divergences: dict[int, torch.Tensor] = {}

    def begin(self, number: int) -> Any:
        return self._selection.begin(number), {}

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        counts, rows = partial
        if number == 0:
            rows[group.start] = divergences(group.tensors[0], group.base)
        divergence = rows[group.start] if number == 0 else self.of(group)
        self._selection.observe(number, importance(group, divergence), counts)

    def fold(self, number: int, partial: Any) -> None:
        counts, rows = partial
        self._selection.fold(counts)
        self._divergences.update(rows)

    def finish(self, number: int) -> None:
        self._selection.finish(number)

    def of(self, group: TensorGroup) -> torch.Tensor:
        """The divergences of a block's rows, `(rows, 1)`."""
        known = self._divergences.get(group.start)
        if known is not None and known.shape[0] == group.stop - group.start:
            return known
        # A reader that asks for other rows than the blocks of the survey.
        return divergences(group.tensors[0], group.base)

    @property
    def threshold(self) -> float:
        """The median plus one and a half times the distance between the quartiles."""
        low, median, high = self._selection.values
        return median + 1.5 * (high - low)


def importance(group: TensorGroup, divergence: torch.Tensor) -> torch.Tensor:
    """Importance of every entry of a block, given its rows' divergences."""
    return (group.tensors[0] - group.base).abs_().mul_(divergence)


@register
class ArceeFusion(Method):
    """Take the model's entries whose importance is at least the median plus 1.5 times the interquartile range."""

    name = "arcee_fusion"
    source = "Arcee Fusion, Arcee AI 2025"
    when = "To add only the clearest changes of another model."
    formula = "x where I >= median(I) + 1.5 IQR(I), else th0;  I = |x - th0| * KL(softmax(row) || softmax(base row))"
    inputs = "tensors"
    base = "required"
    models = (1, 1)
    grain = "row"

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return ImportanceSurvey(max(numel, 1))

    def merge(self, group: TensorGroup, survey: ImportanceSurvey) -> torch.Tensor:
        chosen = importance(group, survey.of(group)) >= survey.threshold
        return group.tensors[0].where(chosen, group.base)
