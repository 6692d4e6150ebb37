"""The forms a skill can have, and how each stores the tensors of a model.

Weight matrices are stored in the form; vectors (norms, biases), which are small, and matrices that the form would not
make smaller are dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genepool.errors import InputError
from genepool.weights.encodings import Encoding, Entry
from genepool.weights.encodings.bits import WIDTHS
from genepool.weights.skill_file import FORMS
from genepool.weights.skill_writer import AS_STORED, Choice
from genepool.weights.tensor_info import TensorInfo

PACKINGS = ("signs", "groups", "singular")
# Below this side a matrix is not worth a form of its own.
_SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Form:
    """How every tensor of a skill is stored; call it as a `Choose`.

    Args:
        name: dense, sparse, low-rank or packed.
        dtype: of stored values and factors: "F32", "BF16" or "F16". When None, F32 for dense changes, BF16 for others.
        rank: most directions of a low-rank or singular change.
        packing: signs, groups or singular.
        bits: of packed numbers: 2, 4 or 8.

    Raises:
        InputError: a setting that the form has not, or out of its range.
    """

    name: str
    dtype: str | None = None
    rank: int | None = None
    packing: str = "groups"
    bits: int = 4

    def __post_init__(self) -> None:
        if self.name not in FORMS:
            raise InputError(
                f"got the form {self.name!r}, expected a known one", where="--to", fix="Known: " + ", ".join(FORMS)
            )
        if self.rank is not None and self.rank < 1:
            raise InputError(f"must be at least 1, got {self.rank}", where="--rank", fix="Give 1 or more")
        if self.packing not in PACKINGS:
            raise InputError(
                f"got the packing {self.packing!r}, expected a known one",
                where="--packing",
                fix="Known: " + ", ".join(PACKINGS),
            )
        if self.bits not in WIDTHS:
            raise InputError(
                f"got {self.bits}, expected a known width", where="--bits", fix="Known: " + ", ".join(map(str, WIDTHS))
            )

    def __call__(self, name: str, shape: tuple[int, ...], stored: tuple[Encoding, Entry] | None) -> Choice:
        rows, columns = TensorInfo(shape, "F32").matrix
        if len(shape) < 2 or min(rows, columns) < _SMALLEST_SIDE:
            if stored is not None and stored[0].kind == "dense" and self.dtype is None:
                return AS_STORED
            # The small ones keep all their bits: they cost next to nothing.
            return Choice("dense", {"dtype": "F32" if self.name != "dense" else self.dtype or "F32"})
        if stored is not None and self._fits(stored):
            return AS_STORED
        values: Mapping[str, Any] = {"dtype": self.dtype or "BF16"}
        if self.name == "dense":
            return Choice("dense", {"dtype": self.dtype or "F32"})
        if self.name == "sparse":
            return Choice("sparse", values)
        rank = min(self.rank or 16, rows, columns)
        if self.name == "low-rank":
            if rank * (rows + columns) >= rows * columns:
                return Choice("dense", values)
            return Choice("low-rank", {"rank": rank, **values})
        if self.packing == "groups":
            return Choice("groups", {"bits": self.bits})
        if self.packing == "signs":
            return Choice("signs", {})
        return Choice("singular", {"bands": mixed_bands(rank)})

    def _fits(self, stored: tuple[Encoding, Entry]) -> bool:
        """Whether what is stored already is of this form."""
        encoding, entry = stored
        if encoding.form != self.name:
            return False
        if self.name == "packed":
            return encoding.kind == self.packing and entry.settings.get("bits", self.bits) == self.bits
        if self.name == "low-rank" and self.rank is not None:
            return entry.parts["left"].info.shape[1] <= self.rank and self.dtype is None
        kept = {"dense": "", "sparse": "values", "low-rank": "left"}[self.name]
        return self.dtype is None or entry.parts[kept].info.dtype == self.dtype


def mixed_bands(rank: int) -> list[tuple[int, int]]:
    """How many directions get how many bits: an eighth 8, three eighths 4, the rest 2, from the strongest on."""
    strong, middle = max(1, rank // 8), max(1, 3 * rank // 8)
    bands = [(strong, 8), (min(middle, rank - strong), 4), (rank - strong - middle, 2)]
    return [band for band in bands if band[0] > 0]
