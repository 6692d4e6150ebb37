"""Entrywise merges from the bytes of files to the bytes of the result, on numpy arrays and without torch.

What TIES, DARE, DELLA, Breadcrumbs, PCB and their kin are made of: a method whose class says `on_arrays` is given
groups of arrays instead of tensors, in small blocks that stay in the processor's cache. Kernels and operators are the
same for both, and so are the bits of the result. The engine takes this way where it can.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from genepool.kernels.stored import NotFinite, StoredVectors
from genepool.kernels.sums import sum_bits
from genepool.merging.group import TensorGroup
from genepool.merging.outputs import OutputTensor
from genepool.merging.stored_sum import KINDS, StoredSums, thread_buffer
from genepool.merging.survey import Survey
from genepool.weights.float_rows import is_stored_float

if TYPE_CHECKING:
    import numpy as np

    from genepool.merging.plan import Plan

    Array = np.ndarray[Any, Any]

# Entries of a part: those of four models and their differences fit into a cache of two megabytes.
_ENTRIES = 1 << 16
# A sample has at most so many pieces, and at least so many of a tensor that is not read whole.
_MOST_PIECES, _FEWEST_PIECES = 256, 16
_PIECE = 2048
# Tensors up to so many entries are their own sample.
_WHOLE = 1 << 15
# A sample that would read more than one in so many entries is none: rows that wide are counted instead.
_SHARE = 4


class StoredArrays:
    """The tensors of a plan that are merged as arrays. Several threads may ask at once.

    Args:
        plan: what is merged.
        sums: reads the bits of inputs.
    """

    def __init__(self, plan: Plan, sums: StoredSums | None = None) -> None:
        self.plan = plan
        self._sums = sums or StoredSums(plan)
        self._local = threading.local()

    @property
    def takes_all(self) -> bool:
        """Whether every tensor that is computed is taken."""
        return all(self.takes(out) for out in self.plan.layout.merged if out.info.is_float and out.info.numel)

    def takes(self, out: OutputTensor) -> bool:
        """Whether a tensor is merged here: the method works on arrays, and the inputs lie in files as they are."""
        plan = self.plan
        if out.kept is not None or out.base is None or not plan.method.on_arrays or plan.method.inputs != "deltas":
            return False
        # Who allows NaN and infinity is served by torch, and so is what no model changes.
        if plan.recipe.lines is not None or plan.recipe.nonfinite != "refuse" or not is_moved(plan, out):
            return False
        if plan.infos[out.name].dtype not in KINDS:
            return False
        return all(is_stored_float(plan.sources[given.model], given.tensor) for given in out.reads)

    def merged(self, out: OutputTensor, survey: Any, start: int, stop: int) -> memoryview | None:
        """Rows `start` to `stop` of a tensor that `takes` took, as bytes of its stored type.

        Returns:
            The bytes, which hold until this thread asks again. None when something is not finite.
        """
        import numpy as np

        columns, stored = out.info.matrix[1], self.plan.infos[out.name].dtype
        kind = np.uint16 if stored == "BF16" else np.uint32
        result = self._buffer("result", (stop - start) * columns, kind)
        group, method = self._group(out, start, stop), self.plan.method
        try:
            edges = [start, *method.breaks(group, survey), stop]
            for block in self._cut(group, pairwise(edges)) if len(edges) > 2 else [group]:
                place = result[(block.start - start) * columns : (block.stop - start) * columns]
                if not method.merge_stored(block, survey, place):
                    self._merge_parts(block, survey, place)
        except NotFinite:
            return None
        if stored == "F16":
            with np.errstate(over="ignore"):
                result = result.view(np.float32).astype(np.float16)
            if not np.isfinite(result).all():
                return None
        return result.data.cast("B")

    def _merge_parts(self, group: TensorGroup, survey: Any, result: Array) -> None:
        """Merges a block in parts, by way of float32 arrays."""
        import numpy as np

        for part in self._parts(group):
            merged = self.plan.method.merge(part, survey).reshape(1, -1).view(np.uint32)
            begin = (part.start - group.start) * group.rows[1]
            rounded = result[begin : begin + merged.size]
            if not sum_bits(merged, merged[0, :0], [1.0], 1.0, subtract=False, out=rounded):
                raise NotFinite

    def observe(self, survey: Survey, number: int, out: OutputTensor, start: int, stop: int, partial: Any) -> int:
        """Streams some rows past a survey.

        Returns:
            The row that it came to: `stop`, or the first of a part that is not finite.
        """
        group = self._group(out, start, stop)
        try:
            if survey.observe_stored(number, group, partial):
                return stop
        except NotFinite:
            return start
        for part in [group] if survey.in_order(number) else self._parts(group):
            try:
                survey.observe(number, part, partial)
            except NotFinite:
                return part.start
        return stop

    def sample(self, survey: Survey, number: int, outputs: Sequence[OutputTensor]) -> None:
        """Gives a survey a sample of what it will see; none where that would take too long, or is not finite."""
        try:
            # One piece after the other: each is read into the same buffers.
            survey.sample(number, self._pieces(outputs))
        except NotFinite:
            return

    def _pieces(self, outputs: Sequence[OutputTensor]) -> Iterator[TensorGroup]:
        """Pieces in even distances over all entries, each somewhere within its stretch."""
        total = sum(out.info.numel for out in outputs)
        if total <= _WHOLE:
            for out in outputs:
                yield self._group(out, 0, out.info.matrix[0])
            return
        rows = sum(out.info.matrix[0] for out in outputs)
        count = min(rows, max(_FEWEST_PIECES, min(_MOST_PIECES, total // (64 * _PIECE))))
        if count * max(out.info.matrix[1] for out in outputs) > total // _SHARE:
            return
        stretch, begin, number = total / count, 0, 0
        for out in outputs:
            height, width = out.info.matrix
            while number < count:
                # Multiples of the golden section are spread as evenly as any, and keep no step with rows.
                place = int((number + number * 0.618034 % 1) * stretch) - begin
                if place >= out.info.numel:
                    break
                row, column = divmod(place, width)
                column = max(0, min(column, width - _PIECE))
                group = self._group(out, row, min(height, row + -(-_PIECE // width)))
                group.window = slice(column, column + _PIECE)
                yield group
                number += 1
            begin += out.info.numel

    def _group(self, out: OutputTensor, start: int, stop: int) -> TensorGroup:
        settings, (rows, base) = self.plan.settings(out), self._sums.bits(out, start, stop)
        group = TensorGroup(
            out.name,
            self.plan.site(out),
            out.info.shape,
            start,
            stop,
            settings.shared,
            settings.per_model,
            self.plan.recipe.seed,
            None,
            _no_base,
            _not_one_by_one,
            _not_one_by_one,
        )
        return self._with_bits(group, rows, base)

    def _parts(self, group: TensorGroup) -> Iterator[TensorGroup]:
        """A block in parts whose differences in float32 stay in the processor's cache."""
        return self._cut(group, _blocks(group.start, group.stop, group.rows[1]))

    def _cut(self, group: TensorGroup, edges: Iterable[tuple[int, int]]) -> Iterator[TensorGroup]:
        import numpy as np

        columns = group.rows[1]
        assert group.stored is not None
        for first, last in edges:
            place = slice((first - group.start) * columns, (last - group.start) * columns)
            # Rows that lie together: loops over others are compiled anew, and take several times as long.
            rows = np.ascontiguousarray(group.stored.rows[:, place])
            yield self._with_bits(replace(group, start=first, stop=last), rows, group.stored.base[place])

    def _with_bits(self, group: TensorGroup, rows: Array, base: Array) -> TensorGroup:
        import numpy as np

        from genepool.kernels import compiled, compiled_sums

        shape = group.rows

        def read_base() -> Array:
            below = np.empty(shape, np.float32)
            compiled_sums.widen(base, below.reshape(-1))
            return below

        def read_deltas() -> Array:
            # This thread's room, used again for the next block.
            differences = self._buffer("differences", rows.size, np.float32).reshape(rows.shape)
            if not compiled.subtract_all(rows, base, differences):
                raise NotFinite
            return differences.reshape(len(rows), *shape)

        return replace(group, read_base=read_base, read_deltas=read_deltas, stored=StoredVectors(rows, base))

    def _buffer(self, name: str, entries: int, kind: type[np.generic]) -> Array:
        return thread_buffer(self._local, name, entries, kind)


def _no_base() -> None:
    return None


def _not_one_by_one(model: int, into: Array) -> None:
    raise AssertionError(f"model {model} is read for {into.shape}: methods on arrays take all differences at once")


def is_moved(plan: Plan, out: OutputTensor) -> bool:
    """Whether any model may differ from the base here; False when it is known without reading that none does."""
    if out.kept is not None:
        return out.kept.model != plan.recipe.base
    assert out.base is not None
    base = plan.sources[out.base.model]
    return any(
        given.tensor != out.base.tensor or plan.sources[given.model].moves(given.tensor, base) for given in out.inputs
    )


def _blocks(start: int, stop: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, _ENTRIES // max(1, columns))
    for first in range(start, stop, step):
        yield first, min(stop, first + step)
