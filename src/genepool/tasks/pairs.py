"""Two models' outcomes on the same examples, as arrays: what every paired comparison is computed from.

`OutcomeTable.pairs` makes them of what was just asked, `Ledger.pairs` of what is on record; `genepool.measure` reads
them. Arrays rather than outcomes, because a ledger may hold a million of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Pairs:
    """One task, answered by two models.

    Attributes:
        task: its name; with the beginning of how it was asked where a ledger knows several ways.
        old, new: scores from 0 to 1, shape (n,) each, the i-th of the same example.
        other_answer: where the two answered differently, shape (n,); None where some answers were not kept.
        only_old, only_new: how many examples were left out because the other model was never asked them.
    """

    task: str
    old: NDArray[np.float64]
    new: NDArray[np.float64]
    other_answer: NDArray[np.bool_] | None = None
    only_old: int = 0
    only_new: int = 0
