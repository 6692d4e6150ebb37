"""Methods whose result is a weighted sum of their inputs, with factors that are known before a row is read.

Many are: averages, task arithmetic, points on arcs. The engine computes them in one fused pass from the bytes of the
files to the bytes of the result (`genepool.merging.stored_sum`), without torch where no survey asks for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool import kernels
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.parameters import Site
from genepool.merging.survey import Survey

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class SumFactors:
    """`(sum_i f_i v_i) / divisor`; a divisor apart keeps the average of equal values exactly that value."""

    of_vectors: Sequence[float]
    divisor: float = 1.0


class WeightedSum(Method):
    """A method that says `factors` and nothing more.

    With inputs "deltas" and a base the result is the base plus the sum over the task vectors; with inputs "tensors" the
    sum over the models, the base first where there is one.
    """

    @abstractmethod
    def factors(
        self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], survey: Any, has_base: bool
    ) -> SumFactors | None:
        """The factors at one tensor; None where there is not one for the whole tensor and `merge` does it itself.

        Args:
            site: where the tensor is.
            shared: the parameters, resolved for the tensor.
            per_model: the same for each model.
            survey: what `survey` returned, finished.
            has_base: whether there is a base.
        """

    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        factors = self.factors(group.site, group.shared, group.per_model, survey, group.has_base)
        assert factors is not None, f"{self.name} has no factors here, and no merge of its own"
        base = group.base if group.has_base and self.inputs == "deltas" else None
        return kernels.weighted_sum(self.vectors(group), factors.of_vectors, factors.divisor, base)

    def vectors(self, group: TensorGroup) -> torch.Tensor:
        """What is summed, `(vectors, rows, columns)`; not to be written into."""
        import torch

        if group.has_base and self.inputs == "deltas":
            return group.resting_deltas
        if not group.has_base:
            return group.vectors
        return torch.cat([group.base.unsqueeze(0), group.tensors])


class Gram(Survey):
    """All dot products between the vectors that a weighted sum adds up.

    Where these are read as they are stored, the engine gives it the products of a block instead of the block.

    Args:
        method: says what the vectors are.
    """

    def __init__(self, method: WeightedSum) -> None:
        self._method = method
        self._total: Any = 0.0

    @property
    def total(self) -> np.ndarray[Any, Any]:
        """The products, `(k, k)` float64; a scalar zero where nothing was seen."""
        import numpy as np

        return np.asarray(self._total, dtype=np.float64)

    def begin(self, number: int) -> Any:
        return []

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        self.add(kernels.gram(self._method.vectors(group)), partial)

    def add(self, products: np.ndarray[Any, Any], partial: Any) -> None:
        """Takes in the dot products of a block."""
        partial[:] = [partial[0] + products] if partial else [products]

    def fold(self, number: int, partial: Any) -> None:
        if partial:
            self._total = self._total + partial[0]
