"""The k-th largest of a streamed vector in one pass: a sample says between which two values it lies.

The pass counts what is above and below the two, and keeps what is strictly between. Where the value is one of the two,
which it mostly is among differences of bfloat16, or among those kept, it is known exactly; where the sample was wrong,
it stays unknown and `genepool.kernels.selection.Selection` finds it in two passes more. A sample decides speed alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genepool.kernels.buffers import as_array
from genepool.kernels.stored import NotFinite

if TYPE_CHECKING:
    import numpy as np

    from genepool.kernels.stored import StoredVectors

    Keys = np.ndarray[Any, Any]

# Half the width of a bracket in standard deviations of the sample's rank: one in two thousand is missed.
_DEVIATIONS = 3.5
# And a few places more, for the smallest and largest ranks.
_SPARE = 4
# Values that may be kept of one vector: 64 MB. Beyond, two more passes cost less than the memory.
MOST_KEPT = 1 << 24
# Keys that no number has: those of NaN.
_LEAST, _MOST = -0x7FFFFFFF, 0x7FFFFFFF
_local = threading.local()


@dataclass
class BracketCounts:
    """What a part of a vector says.

    Attributes:
        counts: as in `compiled_brackets.count_brackets`.
        kept: the keys kept of each bracket.
        size: how many there are to keep, whether they were kept or were too many.
    """

    counts: Keys
    kept: list[list[Keys]] = field(default_factory=list)
    size: int = 0


class Brackets:
    """One bracket for each of several ranks of one vector.

    Args:
        pieces: the sample, pieces of float32 values; each piece lies together in the vector.
        shares: the asked ranks as shares of the vector, 0 for the largest value.
        signed: order by value; by magnitude otherwise.
    """

    def __init__(self, pieces: Sequence[np.ndarray[Any, Any]], shares: Sequence[float], signed: bool = False) -> None:
        import numpy as np

        from genepool.kernels import compiled_brackets

        self.signed = signed
        pieces = [piece.reshape(-1) for piece in pieces if piece.size]
        values = np.concatenate([np.empty(0, np.float32), *pieces])
        keys = np.empty(values.size, np.int32)
        compiled_brackets.keys_of(values.view(np.int32), signed, keys)
        starts = np.cumsum([0, *(piece.size for piece in pieces)])[:-1]
        ends = [_ends(keys, starts, share) for share in shares]
        self._lows, self._highs = (np.array(side, np.int32) for side in zip(*ends, strict=True))
        self._counts = np.zeros((len(shares), 4), np.int64)
        self._kept: list[list[Keys]] = [[] for _ in shares]
        self._size = 0

    def begin(self) -> BracketCounts:
        """Nothing counted yet."""
        import numpy as np

        return BracketCounts(np.zeros_like(self._counts), [[] for _ in self._kept])

    def observe(self, values: Any, part: BracketCounts) -> None:
        """Counts some entries of the vector, float32 of any shape; an array or a tensor of the processor."""
        import numpy as np

        from genepool.kernels import compiled_brackets

        array = as_array(values.reshape(-1))
        assert array is not None
        bits = array.view(np.int32)
        kept, ends = _room(len(self._kept), bits.size), np.empty(len(self._kept), np.int64)
        compiled_brackets.count_brackets(bits, self.signed, self._lows, self._highs, part.counts, kept, ends)
        self._keep(kept, ends, part)

    def observe_stored(self, vectors: StoredVectors, number: int, part: BracketCounts) -> None:
        """The same for some entries of one of several vectors that are given as bits; by magnitude."""
        import numpy as np

        assert not self.signed
        kept, ends = _room(len(self._kept), vectors.base.size), np.empty(len(self._kept), np.int64)
        vectors.count(number, self._lows, self._highs, part.counts, kept, ends)
        self._keep(kept, ends, part)

    def _keep(self, kept: Keys, ends: Keys, part: BracketCounts) -> None:
        for row, end, keys in zip(kept, ends.tolist(), part.kept, strict=True):
            part.size += end
            # A part may be one tensor of a billion entries, so it is bounded by itself too.
            if end and self._size + part.size <= MOST_KEPT:
                keys.append(row[:end].copy())

    def fold(self, part: BracketCounts) -> None:
        """Adds a part to the whole."""
        self._counts += part.counts
        self._size += part.size
        if self._size > MOST_KEPT:
            self._kept = [[] for _ in self._kept]
            return
        for all_keys, own in zip(self._kept, part.kept, strict=True):
            all_keys += own

    def found(self, number: int, rank: int) -> tuple[float, int, int] | None:
        """The value at a rank, from 1 for the largest.

        Args:
            number: of the bracket.
            rank: the rank; near the share that the bracket was made for.

        Returns:
            The value, how many entries have it, and the rank among those, from 1; None when the bracket missed it.
        """
        import numpy as np

        above_high, from_high, above_low, from_low = self._counts[number].tolist()
        if above_high < rank <= from_high:
            return self._value(int(self._highs[number])), from_high - above_high, rank - above_high
        if above_low < rank <= from_low:
            return self._value(int(self._lows[number])), from_low - above_low, rank - above_low
        if not from_high < rank <= above_low or self._size > MOST_KEPT:
            return None
        keys, left = np.concatenate(self._kept[number]), rank - from_high
        key = np.partition(keys, keys.size - left)[keys.size - left]
        above, same = int(np.count_nonzero(keys > key)), int(np.count_nonzero(keys == key))
        return self._value(int(key)), same, left - above

    def _value(self, key: int) -> float:
        import numpy as np

        bits = key ^ 0x7FFFFFFF if key < 0 else key
        return float(np.int32(bits).view(np.float32))


def observe_together(
    brackets: Sequence[Brackets],
    parts: Sequence[BracketCounts],
    entries: int,
    count: Callable[[Keys, Keys, Keys, Keys, Keys], bool],
) -> None:
    """Counts entries of several vectors at once, each around as many brackets.

    Args:
        brackets, parts: one of each for every vector.
        entries: how many of each vector.
        count: the loop; given the low and high ends, `(vectors, brackets)`, the counts, `(vectors, brackets, 4)`, room
            for what is kept, `(vectors, brackets, entries)`, and for how many there are, `(vectors, brackets)`. Returns
            whether everything is finite.

    Raises:
        NotFinite: something is not.
    """
    import numpy as np

    lows, highs = (np.stack([getattr(one, side) for one in brackets]) for side in ("_lows", "_highs"))
    counts, ends = np.zeros((*lows.shape, 4), np.int64), np.empty(lows.shape, np.int64)
    kept = _room(lows.size, entries).reshape(*lows.shape, entries)
    if not count(lows, highs, counts, kept, ends):
        raise NotFinite
    for bracket, part, found, own, until in zip(brackets, parts, counts, kept, ends, strict=True):
        part.counts += found
        bracket._keep(own, until, part)


def _ends(keys: Keys, starts: Keys, share: float) -> tuple[int, int]:
    """The bracket of one rank, as keys: those of the sample that are some deviations away from it."""
    import numpy as np

    if not keys.size:
        # Everything is between the two, and is kept.
        return _LEAST, _MOST
    place = min(max(share * keys.size, 0.0), keys.size)
    middle = keys.size - 1 - min(int(place), keys.size - 1)
    in_order = np.partition(keys, middle)
    # Entries that lie together are alike: pieces vary by more than as many single entries would.
    beyond = np.add.reduceat(keys >= in_order[middle], starts, dtype=np.float64)
    sizes = np.diff(np.append(starts, keys.size))
    between = float(np.square(beyond - sizes * (beyond.sum() / keys.size)).sum()) if len(starts) > 1 else 0.0
    margin = _DEVIATIONS * math.sqrt(max(place * (1 - place / keys.size), between)) + _SPARE
    above, below = math.floor(place - margin), math.ceil(place + margin)
    places = [keys.size - one for one in (above, below) if 1 <= one <= keys.size]
    in_order = np.partition(in_order, places) if places else in_order
    high = int(in_order[keys.size - above]) if above >= 1 else _MOST
    low = int(in_order[keys.size - below]) if below <= keys.size else _LEAST
    return low, max(low, high)


def _room(brackets: int, entries: int) -> Keys:
    """This thread's room for what is kept of a block."""
    import numpy as np

    held: Keys | None = getattr(_local, "kept", None)
    if held is None or held.size < brackets * entries:
        held = _local.kept = np.empty(brackets * entries, np.int32)
    return held[: brackets * entries].reshape(brackets, entries)
