"""Surveys: what a method learns of a tensor or of the whole vector before it merges, as a small summary.

The engine streams blocks past a survey, several tensors at a time; partial summaries are folded in a fixed order, so
the result does not depend on threads. The kinds here (thresholds, sums, chains) serve nearly every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from genepool.kernels.brackets import Brackets
from genepool.kernels.selection import Selection
from genepool.merging.group import TensorGroup

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.kernels.stored import StoredVectors


class Survey:
    """A small summary, built in a fixed number of passes.

    In each pass, for every tensor or for several small ones: `partial = begin(pass)`, `observe(pass, block, partial)`
    for the blocks in turn, and `fold(pass, partial)`, called in the order of the output; at the end of the pass,
    `finish(pass)`. Passes count from 0.

    Attributes:
        passes: how many it needs.
    """

    passes: int = 1

    def reads(self, sampled: bool) -> int:
        """How many of the passes are usually made, with samples or without.

        Args:
            sampled: whether the engine gives samples, which it does where it needs no torch.
        """
        return self.passes

    def samples(self, number: int) -> bool:
        """Whether a sample spares passes from this one on; asked when those before it are over."""
        return False

    def sample(self, number: int, groups: Iterable[TensorGroup]) -> None:
        """Takes in a sample before a pass: a few rows from everywhere, as arrays, of everything that will be seen."""

    def wanted(self, number: int) -> bool:
        """Whether a pass has anything to find; asked when those before it are over."""
        return True

    def in_order(self, number: int) -> bool:
        """Whether a pass depends on the blocks that it sees, as sums of fractions do."""
        return False

    def begin(self, number: int) -> Any:
        """An empty partial summary, of one tensor or a few."""
        return None

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        """Takes in a block; may change `partial` alone, since several tensors are observed at once."""

    def observe_stored(self, number: int, group: TensorGroup, partial: Any) -> bool:
        """The same from the bits of files, `group.stored`, where there is a loop that does it at once.

        Returns:
            Whether it was done; if not, `observe` is called for the block, or for parts of it.

        Raises:
            NotFinite: a difference is NaN or infinite.
        """
        return False

    def fold(self, number: int, partial: Any) -> None:
        """Adds a partial summary to the whole."""

    def finish(self, number: int) -> None:
        """Ends a pass."""


class Chain(Survey):
    """Surveys one after the other; a later one may use what an earlier one found."""

    def __init__(self, surveys: Sequence[Survey]) -> None:
        self._order = [(survey, number) for survey in surveys for number in range(survey.passes)]
        self.passes = len(self._order)
        self._surveys = list(surveys)

    def reads(self, sampled: bool) -> int:
        return sum(survey.reads(sampled) for survey in self._surveys)

    def samples(self, number: int) -> bool:
        survey, own = self._order[number]
        return survey.samples(own)

    def sample(self, number: int, groups: Iterable[TensorGroup]) -> None:
        survey, own = self._order[number]
        survey.sample(own, groups)

    def in_order(self, number: int) -> bool:
        survey, own = self._order[number]
        return survey.in_order(own)

    def wanted(self, number: int) -> bool:
        survey, own = self._order[number]
        return survey.wanted(own)

    def begin(self, number: int) -> Any:
        survey, own = self._order[number]
        return survey.begin(own)

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        survey, own = self._order[number]
        survey.observe(own, group, partial)

    def observe_stored(self, number: int, group: TensorGroup, partial: Any) -> bool:
        survey, own = self._order[number]
        return survey.observe_stored(own, group, partial)

    def fold(self, number: int, partial: Any) -> None:
        survey, own = self._order[number]
        survey.fold(own, partial)

    def finish(self, number: int) -> None:
        survey, own = self._order[number]
        survey.finish(own)


class Magnitudes(Survey):
    """For each of several streamed vectors, its k-th largest magnitudes for some k, exactly.

    With a sample it takes one pass, and two more only if the sample was misleading; without, it takes these two.

    Args:
        ranks: the k of each vector, from 1 for the largest; none for one that is not asked about.
        vectors: the vectors' entries in a block, `(vectors, ...)`; the task vectors when not given.
        numel: entries of each vector; without it no sample is of use.
        signed: the largest values instead of magnitudes.
        stored: the vectors of a block as they are stored; gives None where they are not.
    """

    passes = 1 + Selection.passes
    # The first of the passes without a sample.
    counting = 1

    def __init__(
        self,
        ranks: Sequence[Sequence[int]],
        vectors: Callable[[TensorGroup], Any] | None = None,
        numel: int = 0,
        signed: bool = False,
        stored: Callable[[TensorGroup], StoredVectors | None] | None = None,
    ) -> None:
        self.selections = [Selection(ks, signed) for ks in ranks]
        self._vectors, self._numel = vectors or deltas_of, numel
        self._stored = stored or (stored_of if vectors is None and not signed else lambda _: None)
        self._brackets: list[Brackets | None] | None = None

    @property
    def found(self) -> list[list[float]]:
        """For each vector the magnitudes asked for, in that order; infinity for k = 0."""
        return [selection.values for selection in self.selections]

    def reads(self, sampled: bool) -> int:
        return 1 if sampled and self._numel else Selection.passes

    def samples(self, number: int) -> bool:
        return number == 0 and self._numel > 0

    def sample(self, number: int, groups: Iterable[TensorGroup]) -> None:
        pieces = [self._vectors(group)[..., group.window].copy() for group in groups]
        if pieces:
            self._brackets = [
                Brackets(
                    [piece[i] for piece in pieces], [rank / self._numel for rank in selection.ranks], selection.signed
                )
                if any(selection.ranks)
                else None
                for i, selection in enumerate(self.selections)
            ]

    def wanted(self, number: int) -> bool:
        if number == 0:
            return self._brackets is not None
        return self._brackets is None or not all(selection.is_known for selection in self.selections)

    def begin(self, number: int) -> Any:
        if number == 0:
            assert self._brackets is not None
            return [bracket and bracket.begin() for bracket in self._brackets]
        return [selection.begin(number - 1) for selection in self.selections]

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        vectors = self._vectors(group)
        if number == 0:
            assert self._brackets is not None
            for bracket, vector, counts in zip(self._brackets, vectors, partial, strict=True):
                if bracket is not None:
                    bracket.observe(vector, counts)
            return
        for selection, vector, counts in zip(self.selections, vectors, partial, strict=True):
            selection.observe(number - 1, vector, counts)

    def observe_stored(self, number: int, group: TensorGroup, partial: Any) -> bool:
        stored = self._stored(group) if number == 0 else None
        if stored is None:
            return False
        assert self._brackets is not None
        for i, (bracket, counts) in enumerate(zip(self._brackets, partial, strict=True)):
            if bracket is not None:
                bracket.observe_stored(stored, i, counts)
        return True

    def fold(self, number: int, partial: Any) -> None:
        if number == 0:
            assert self._brackets is not None
            for bracket, counts in zip(self._brackets, partial, strict=True):
                if bracket is not None:
                    bracket.fold(counts)
            return
        for selection, counts in zip(self.selections, partial, strict=True):
            selection.fold(counts)

    def finish(self, number: int) -> None:
        if number == 0:
            assert self._brackets is not None
            for bracket, selection in zip(self._brackets, self.selections, strict=True):
                selection.take(bracket)
            return
        for selection in self.selections:
            selection.finish(number - 1)


class Thresholds(Magnitudes):
    """For each of several streamed vectors, its k-th largest magnitude, exactly.

    Args:
        counts: k of each vector; None for one that needs no threshold.
        vectors, numel: as for `Magnitudes`.
    """

    def __init__(
        self, counts: Sequence[int | None], vectors: Callable[[TensorGroup], Any] | None = None, numel: int = 0
    ) -> None:
        super().__init__([[] if k is None else [k] for k in counts], vectors, numel)

    @property
    def values(self) -> list[float]:
        """The smallest kept magnitude of each vector: 0 where all is kept, infinity where nothing is."""
        return [found[0] if found else 0.0 for found in self.found]


def deltas_of(group: TensorGroup) -> Any:
    """The task vectors' entries in a block, `(vectors, rows, columns)`."""
    return group.deltas


def stored_of(group: TensorGroup) -> StoredVectors | None:
    """The same as they are stored; None where they are not."""
    return group.stored


class Sums(Survey):
    """The sum over all blocks of what `measure` says of one.

    Args:
        measure: numbers of a block as an array or a tensor of any fixed shape; added up in float64.
        in_order: whether they are no whole numbers, so that the sum depends on the blocks.
        stored: the same from the bits of files; None for a block where it cannot.
    """

    def __init__(
        self,
        measure: Callable[[TensorGroup], Any],
        in_order: bool = True,
        stored: Callable[[TensorGroup], Any] | None = None,
    ) -> None:
        self._measure, self._in_order, self._stored = measure, in_order, stored
        self._total: Any = 0.0

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The sum, float64."""
        import numpy as np

        return np.asarray(self._total, np.float64)

    @property
    def total(self) -> torch.Tensor:
        """The same as a tensor on the processor."""
        import torch

        return torch.from_numpy(self.array)

    def in_order(self, number: int) -> bool:
        return self._in_order

    def begin(self, number: int) -> Any:
        return []

    def observe(self, number: int, group: TensorGroup, partial: Any) -> None:
        self._add(self._measure(group), partial)

    def observe_stored(self, number: int, group: TensorGroup, partial: Any) -> bool:
        if self._stored is None or (measured := self._stored(group)) is None:
            return False
        self._add(measured, partial)
        return True

    def _add(self, measured: Any, partial: Any) -> None:
        import numpy as np

        if not isinstance(measured, np.ndarray):
            measured = measured.cpu().numpy()
        measured = measured.astype(np.float64)
        partial[:] = [partial[0] + measured] if partial else [measured]

    def fold(self, number: int, partial: Any) -> None:
        if partial:
            self._total = self._total + partial[0]
