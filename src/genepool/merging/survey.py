"""Surveys: what a method learns of a tensor or of the whole vector before it merges, as a small summary.

The engine streams blocks past a survey, several tensors at a time; partial summaries are folded in a fixed order, so
the result does not depend on threads. The kinds here (thresholds, sums, chains) serve nearly every method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.selection import Selection
from genepool.merging.group import TensorGroup

if TYPE_CHECKING:
    import torch


class Survey:
    """A small summary, built in a fixed number of passes.

    In each pass, for every tensor or for several small ones: `partial = begin(pass)`, `observe(pass, block, partial)`
    for the blocks in turn, and `fold(pass, partial)`, called in the order of the output; at the end of the pass,
    `finish(pass)`. Passes count from 0.

    Attributes:
        passes: how many it needs.
    """

    passes: int = 1

    def begin(self, number: int) -> Any:
        """An empty partial summary, of one tensor or a few."""
        return None

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        """Takes in a block; may change `partial` alone, since several tensors are observed at once."""

    def fold(self, number: int, partial: Any) -> None:
        """Adds a partial summary to the whole."""

    def finish(self, number: int) -> None:
        """Ends a pass."""


class Chain(Survey):
    """Surveys one after the other; a later one may use what an earlier one found."""

    def __init__(self, surveys: Sequence[Survey]) -> None:
        self._order = [(survey, number) for survey in surveys for number in range(survey.passes)]
        self.passes = len(self._order)

    def begin(self, number: int) -> Any:
        survey, own = self._order[number]
        return survey.begin(own)

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        survey, own = self._order[number]
        survey.observe(own, group, partial)

    def fold(self, number: int, partial: Any) -> None:
        survey, own = self._order[number]
        survey.fold(own, partial)

    def finish(self, number: int) -> None:
        survey, own = self._order[number]
        survey.finish(own)


class Magnitudes(Survey):
    """For each of several streamed vectors, its k-th largest magnitudes for some k, exactly.

    Args:
        ranks: the k of each vector, from 1 for the largest; none for one that is not asked about.
        vectors: the vectors' entries in a block, `(vectors, ...)`; the task vectors when not given.
    """

    passes = Selection.passes

    def __init__(
        self, ranks: Sequence[Sequence[int]], vectors: Callable[[TensorGroup], torch.Tensor] | None = None
    ) -> None:
        self._selections = [Selection(ks) for ks in ranks]
        self._vectors = vectors or _deltas

    @property
    def found(self) -> list[list[float]]:
        """For each vector the magnitudes asked for, in that order; infinity for k = 0."""
        return [selection.values for selection in self._selections]

    def begin(self, number: int) -> Any:
        return [selection.begin(number) for selection in self._selections]

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        for selection, vector, counts in zip(self._selections, self._vectors(group), partial, strict=True):
            selection.observe(number, vector, counts)

    def fold(self, number: int, partial: Any) -> None:
        for selection, counts in zip(self._selections, partial, strict=True):
            selection.fold(counts)

    def finish(self, number: int) -> None:
        for selection in self._selections:
            selection.finish(number)


class Thresholds(Magnitudes):
    """For each of several streamed vectors, its k-th largest magnitude, exactly.

    Args:
        counts: k of each vector; None for one that needs no threshold.
        vectors: the vectors' entries in a block, `(vectors, ...)`; the task vectors when not given.
    """

    def __init__(
        self, counts: Sequence[int | None], vectors: Callable[[TensorGroup], torch.Tensor] | None = None
    ) -> None:
        super().__init__([[] if k is None else [k] for k in counts], vectors)

    @property
    def values(self) -> list[float]:
        """The smallest kept magnitude of each vector: 0 where all is kept, infinity where nothing is."""
        return [found[0] if found else 0.0 for found in self.found]


def _deltas(group: TensorGroup) -> torch.Tensor:
    return group.deltas


class Sums(Survey):
    """The sum over all blocks of what `measure` says of one.

    Args:
        measure: numbers of a block as a tensor of any fixed shape; added up in float64.
    """

    def __init__(self, measure: Callable[[TensorGroup], torch.Tensor]) -> None:
        self._measure = measure
        self._total: torch.Tensor | float = 0.0

    @property
    def total(self) -> torch.Tensor:
        """The sum, float64, on the processor."""
        import torch

        return torch.as_tensor(self._total, dtype=torch.float64)

    def begin(self, number: int) -> Any:
        return []

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        import torch

        measured = self._measure(group).to("cpu", torch.float64)
        partial[:] = [partial[0] + measured] if partial else [measured]

    def fold(self, number: int, partial: Any) -> None:
        if partial:
            self._total = self._total + partial[0]
