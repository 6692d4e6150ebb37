"""Which entries a random drop left, one bit each: so that a later pass need not draw and rank again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class KeptMarks:
    """What was left of the blocks of one tensor, from when they are first made sparse until they are merged.

    Several threads may use the marks of different tensors.
    """

    def __init__(self) -> None:
        # First row -> end, and the marks of every vector.
        self._blocks: dict[int, tuple[int, Array]] = {}

    def remember(self, start: int, vectors: Array) -> None:
        """Marks what is left of some rows, `(vectors, rows, columns)`; `start` is the first of them."""
        import numpy as np

        marks = np.packbits(vectors.reshape(len(vectors), -1) != 0, axis=1)
        self._blocks[start] = (start + vectors.shape[1], marks)

    def find(self, start: int, stop: int, columns: int) -> tuple[Array, int] | None:
        """The marks of some rows, and the number of their first bit; as for `recall`, and None where there are none."""
        first = max((known for known in self._blocks if known <= start), default=None)
        if first is None or self._blocks[first][0] < stop:
            return None
        end, marks = self._blocks[first]
        if stop == end:
            del self._blocks[first]
        return marks, (start - first) * columns

    def recall(self, start: int, vectors: Array) -> bool:
        """Sets to zero, in place, what was dropped of some rows; these are forgotten with the last row of their block.

        Returns:
            Whether it was remembered; if not, nothing was changed.
        """
        import numpy as np

        from genepool.kernels import compiled_entries

        found = self.find(start, start + vectors.shape[1], vectors.shape[2])
        if found is None:
            return False
        marks, place = found
        byte, bit = divmod(place, 8)
        for vector, own in zip(vectors, marks, strict=True):
            bits = vector.reshape(-1).view(np.uint32)
            compiled_entries.keep_marked(bits, np.unpackbits(own[byte:], count=bit + bits.size)[bit:])
        return True
