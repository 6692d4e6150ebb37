"""Weighted sums from the bytes of files to the bytes of the result: one read, one fused pass, no torch.

What linear merges and task arithmetic are made of. Buffers are used again block after block, and the values are those
of `WeightedSum.merge`, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.kernels.sums import gram_bits, sum_bits
from genepool.merging.outputs import Input, OutputTensor
from genepool.merging.plan import Plan
from genepool.merging.weighted_sum import SumFactors, WeightedSum
from genepool.weights.float_rows import is_stored_float, read_float32

if TYPE_CHECKING:
    import numpy as np

    Bits = np.ndarray[Any, Any]

# Entries of all models from which on the compiled loop is ahead of numpy, its loading counted.
_LARGE = 1 << 29
# Types that results are rounded to here.
KINDS = frozenset({"F32", "BF16", "F16"})


class StoredSums:
    """The tensors of a plan that can be summed as they are stored. Several threads may ask at once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._local = threading.local()

    @cached_property
    def _is_large(self) -> bool:
        """Whether there is enough to do that loading compiled code pays."""
        return sum(out.info.numel * len(out.inputs) for out in self.plan.layout.outputs) >= _LARGE

    def takes(self, out: OutputTensor) -> bool:
        """Whether a tensor's inputs lie in files as they are, in types that are understood here."""
        if out.kept is not None:
            # A copy in another type is converted by torch.
            same = self.plan.infos[out.name].dtype == out.info.dtype
            return same and is_stored_float(self.plan.sources[out.kept.model], out.kept.tensor)
        if not isinstance(self.plan.method, WeightedSum) or self.plan.recipe.lines is not None:
            return False
        if self.plan.infos[out.name].dtype not in KINDS:
            return False
        return all(is_stored_float(self.plan.sources[given.model], given.tensor) for given in out.reads)

    def merged(self, out: OutputTensor, survey: Any, start: int, stop: int) -> memoryview | None:
        """Rows `start` to `stop` of a tensor that `takes` took, as bytes of its stored type.

        Returns:
            The bytes, which hold until this thread asks again. None when the factors are not those of a whole tensor,
            or when something is not finite: the ordinary path then says what, or goes on.
        """
        method, settings = self.plan.method, self.plan.settings(out)
        assert isinstance(method, WeightedSum)
        factors = method.factors(self.plan.site(out), settings.shared, settings.per_model, survey, out.base is not None)
        return None if factors is None else self._summed(out, factors, start, stop)

    def copied(self, out: OutputTensor, start: int, stop: int) -> memoryview | None:
        """The same of a tensor that is kept as it is; None when something in it is not finite."""
        import numpy as np

        assert out.kept is not None
        source, entries = self.plan.sources[out.kept.model], (stop - start) * out.info.matrix[1]
        values = self._buffer("values", entries, np.float32)
        read_float32(source, out.kept.tensor, start, stop, values)
        if not np.isfinite(values).all():
            return None
        if out.info.dtype == "F32":
            return values.data.cast("B")
        rows = self._buffer("result", entries, np.uint16)
        stored = source.stored_in(out.kept.tensor)
        assert stored is not None
        stored[0].read_bytes(stored[1], start, stop, rows.data.cast("B"))
        return rows.data.cast("B")

    def products(self, out: OutputTensor, start: int, stop: int) -> np.ndarray[Any, Any] | None:
        """Dot products between what `WeightedSum.vectors` are in those rows, `(k, k)`; None if they are not finite."""
        import numpy as np

        vectors, base = self.bits(out, start, stop)
        products = gram_bits(vectors, base, compiled=self._is_large)
        return products if np.isfinite(products).all() else None

    def _summed(self, out: OutputTensor, factors: SumFactors, start: int, stop: int) -> memoryview | None:
        import numpy as np

        vectors, base = self.bits(out, start, stop)
        stored = self.plan.infos[out.name].dtype
        result = self._buffer("result", vectors.shape[1], np.uint16 if stored == "BF16" else np.uint32)
        finite = sum_bits(
            vectors,
            base,
            factors.of_vectors,
            factors.divisor,
            subtract=base.size > 0,
            out=result,
            compiled=self._is_large,
        )
        if not finite:
            return None
        if stored == "F16":
            with np.errstate(over="ignore"):
                result = result.view(np.float32).astype(np.float16)
            if not np.isfinite(result).all():
                return None
        return result.data.cast("B")

    def bits(self, out: OutputTensor, start: int, stop: int) -> tuple[Bits, Bits]:
        """The vectors, `(k, n)`, and the base they are relative to, `(n,)`; empty when they stand for themselves.

        As bits: of bfloat16 when all that is read is bfloat16, else of float32.
        """
        if out.base is None:
            rows = self._read_inputs(out.inputs, start, stop, (stop - start) * out.info.matrix[1])
            return rows, rows[0, :0]
        rows = self._read_inputs([out.base, *out.inputs], start, stop, (stop - start) * out.info.matrix[1])
        return (rows[1:], rows[0]) if self.plan.method.inputs == "deltas" else (rows, rows[0, :0])

    def _read_inputs(self, inputs: Sequence[Input], start: int, stop: int, entries: int) -> Bits:
        import numpy as np

        sources = self.plan.sources
        narrow = all(sources[given.model].info(given.tensor).dtype == "BF16" for given in inputs)
        rows = self._buffer("rows", len(inputs) * entries, np.uint16 if narrow else np.uint32)
        rows = rows.reshape(len(inputs), entries)
        for given, row in zip(inputs, rows, strict=True):
            stored = sources[given.model].stored_in(given.tensor)
            if narrow and stored is not None:
                stored[0].read_bytes(stored[1], start, stop, row.data.cast("B"))
            else:
                read_float32(sources[given.model], given.tensor, start, stop, row.view(np.float32))
        return rows

    def _buffer(self, name: str, entries: int, kind: type[np.generic]) -> Bits:
        """This thread's buffer for one purpose, kept from block to block."""
        return thread_buffer(self._local, name, entries, kind)


def thread_buffer(local: threading.local, name: str, entries: int, kind: type[np.generic]) -> Bits:
    """A buffer that belongs to one thread and one purpose, kept from block to block.

    It begins with a page, as what it is read from and written to does: the kernel copies faster then.
    """
    import mmap

    import numpy as np

    nbytes = entries * np.dtype(kind).itemsize
    held: Bits | None = getattr(local, name, None)
    if held is None or held.nbytes < nbytes:
        held = np.frombuffer(mmap.mmap(-1, max(nbytes, 1)), np.uint8)
        setattr(local, name, held)
    return held[:nbytes].view(kind)
