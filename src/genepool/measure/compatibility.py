"""Update compatibility: what a new version of a model breaks for those who were used to the old one.

After MUSCLE (Echterhoff et al. 2024, "A Model Update Strategy for Compatible LLM Evolution") and Srivastava et al. 2020
("An Empirical Analysis of Backward Compatibility in Machine Learning Systems"). Computed from paired outcomes alone;
`comparison` uses it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.errors import InputError
from genepool.measure.intervals import Interval, Scores, mean_interval, wilson

SOLVED = 0.5  # A score above this counts as right.


@dataclass(frozen=True)
class FlipMatrix:
    """How many examples each model got right: the 2 x 2 table of two versions.

    Attributes:
        both_right, both_wrong: where they agree.
        gained: only the new one is right: positive flips.
        lost: only the old one was right: negative flips.
    """

    both_right: int
    gained: int
    lost: int
    both_wrong: int

    @classmethod
    def of(cls, old: Scores, new: Scores) -> FlipMatrix:
        """Counted from scores from 0 to 1, shape (n,) each."""
        was, now = old > SOLVED, new > SOLVED
        counts = (was & now, ~was & now, was & ~now, ~was & ~now)
        return cls(*(int(np.count_nonzero(mask)) for mask in counts))

    def __add__(self, other: FlipMatrix) -> FlipMatrix:
        mine, theirs = asdict(self), asdict(other)
        return FlipMatrix(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.both_right + self.gained + self.lost + self.both_wrong


@dataclass(frozen=True)
class Compatibility:
    """What an update keeps and breaks on one task. Rates are shares of all examples unless they say otherwise.

    Attributes:
        matrix: right and wrong, old by new.
        negative_flips: share the old version solved and the new one does not (MUSCLE's NFR).
        positive_flips: share only the new version solves.
        kept: of what the old version solved, the share the new one still solves (backward trust compatibility); None
            where it solved nothing.
        other_mistakes: share the new version gets wrong otherwise than the old one did (MUSCLE counts these, with the
            negative flips, against a new version of multiple choice); None where answers were not kept.
        worse, better: share of examples with a lower and with a higher score: flips of free text, judged by degree.
        regression, gain: how much lower and higher on those, on average; None where there are none.
    """

    matrix: FlipMatrix
    negative_flips: Interval
    positive_flips: Interval
    kept: Interval | None
    other_mistakes: Interval | None
    worse: float
    better: float
    regression: float | None
    gain: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, intervals as {mean, lo, hi}."""

        def plain(value: Any) -> Any:
            if isinstance(value, Interval):
                return value._asdict()
            return asdict(value) if isinstance(value, FlipMatrix) else value

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}


def compatibility(old: Scores, new: Scores, other_answer: NDArray[np.bool_] | None = None) -> Compatibility:
    """What the new version keeps and breaks.

    Args:
        old, new: scores from 0 to 1 on the same examples, shape (n,) each.
        other_answer: where the two answered differently, shape (n,); None where that is not known.
    """
    if len(old) != len(new):
        raise InputError(f"got {len(new)} examples, expected {len(old)}", fix="Compare models over the same examples")
    matrix = FlipMatrix.of(old, new)
    before = matrix.both_right + matrix.lost
    moved = new - old
    worse, better = moved < 0, moved > 0
    mistakes = None
    if other_answer is not None:
        mistakes = mean_interval(((new <= SOLVED) & other_answer).astype(np.float64))
    return Compatibility(
        matrix,
        wilson(matrix.lost, matrix.n),
        wilson(matrix.gained, matrix.n),
        wilson(matrix.both_right, before) if before else None,
        mistakes,
        float(worse.mean()),
        float(better.mean()),
        float(-moved[worse].mean()) if worse.any() else None,
        float(moved[better].mean()) if better.any() else None,
    )
