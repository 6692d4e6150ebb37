"""SCE (Wan et al., FuseChat, arXiv:2408.07990): select where models differ, weigh by what moved, erase the minority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register
from genepool.merging.survey import Chain, Magnitudes, Sums, Survey
from genepool.merging.tie_places import TiePlaces


class VarianceSurvey(Magnitudes):
    """The smallest selected variance: of the entries that vary at all, the share with the largest, in two passes."""

    def __init__(self, share: float) -> None:
        # The rank is known when the first pass is over.
        super().__init__([[1]], varied)
        self._share, self._differing = share, 0

    @property
    def threshold(self) -> float:
        """The smallest selected variance; infinity when nothing is selected."""
        return self.found[0][0]

    def begin(self, number: int) -> list[Any]:
        return [self.selections[0].begin(number - self.counting), 0]

    def observe(self, number: int, group: TensorGroup, partial: list[Any]) -> None:
        found = varied(group)[0]
        self.selections[0].observe(number - self.counting, found, partial[0])
        if number == self.counting:
            partial[1] += int((found != 0).sum())

    def fold(self, number: int, partial: list[Any]) -> None:
        self.selections[0].fold(partial[0])
        self._differing += partial[1]

    def finish(self, number: int) -> None:
        if number == self.counting:
            self.selections[0].rank(0, int(self._share * self._differing))
        super().finish(number)


class SelectionSurvey(Chain):
    """What is selected, then squares of it.

    The smallest selected variance takes two passes, none when all is selected, and one more where more entries have it
    than are to be selected: the first of them by place are.
    """

    def __init__(self, share: float, numel: int, alike_below: float) -> None:
        self._variance = VarianceSurvey(share) if share < 1 else None
        self._ties = TiePlaces(self._variance, varied) if self._variance else None
        self._squares = Sums(lambda group: kernels.squares(self.select(group, group.deltas)))
        self._numel, self._alike_below = numel, alike_below
        super().__init__([stage for stage in (self._variance, self._ties, self._squares) if stage is not None])

    def select(self, group: TensorGroup, deltas: Any) -> Any:
        """A block's task vectors, zero where nothing is selected; written into."""
        if self._variance is None or self._ties is None:
            return deltas
        found = self._ties.drop(group, kernels.variances(deltas)[None])[0]
        kernels.keep_largest(deltas, found, self._variance.threshold)
        return deltas

    @property
    def weights(self) -> list[float]:
        """Each model's share of the squares; equal shares where their means sum to too little."""
        squares = self._squares.array
        total = float(squares.sum())
        if total <= 0 or total / self._numel < self._alike_below:
            return [1 / len(squares)] * len(squares)
        return [square / total for square in squares.tolist()]


def varied(group: TensorGroup) -> Any:
    """The variances of a block, as the only vector of a survey: `(1, rows, columns)`."""
    return kernels.variances(group.resting_deltas)[None]


@register
class Sce(Method):
    """Weight the models in each tensor by the squares of their changes, and elect signs by the plain sum."""

    name = "sce"
    source = "FuseChat, Wan et al. 2024, arXiv:2408.07990, section 3.3"
    when = "Models that learnt from different teachers or data, with nothing to tune but the share selected."
    formula = "th0 + mean over agreeing i of w_i s t_i,  w_i ~ sum (s t_i)^2,  s: top entries by variance over models"
    inputs = "deltas"
    base = "required"
    on_arrays = True
    parameters = (
        Parameter(
            "select_topk", 0.1, "Share of the varying entries that is selected in each tensor: those that vary most "
            "between the models, of equal ones the first.", low=0, high=1, source="section 4: top 10%",
        ),
        Parameter(
            "merges", "selected", "Merge the selected entries, or all entries with weights computed "
            "from the selected ones.",
            kind=str, choices=("selected", "all"), source="the paper merges the selected, the authors' code all",
        ),
        Parameter(
            "alike_below", 0.0, "If the mean squared changes sum to less than this, all models get the same "
            "weight.", low=0,
            source="1e-6 in mergekit",
        ),
    )  # fmt: skip

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey:
        return SelectionSurvey(shared["select_topk"], numel, shared["alike_below"])

    def merge(self, group: TensorGroup, survey: SelectionSurvey) -> Any:
        ones = [1.0] * len(group.per_model)
        vectors = group.deltas if group.shared["merges"] == "all" else survey.select(group, group.deltas)
        merged, _ = kernels.elect(vectors, survey.weights, votes=ones, normalize=True)
        return kernels.add_scaled(group.base, merged)
