"""A batch as it was issued, and what became of it: what an adaptation gives out, and what is put on record.

Uses the adapter's signals and the watch's signs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genepool.adaptation.adapter import Asked, Signals
from genepool.adaptation.series import error_of, score_of
from genepool.adaptation.watch import BatchSigns

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StreamStep:
    """A batch as it was issued.

    Attributes:
        number: counted from 0 over all rounds.
        round: counted from 1.
        position: of its first example, counted from 0 over all rounds.
        keys, domains: of the examples.
        answers: the right classes; None where no label comes. Of a series what follows each window, as text.
        known: whether an example's class is one that the model can know.
        probabilities: of the classes, shape (n, classes), float32; of a series the forecasts, shape (n, horizon,
            variables).
        predicted: the class that was issued, or the forecast as text; None where a probability is no number.
        entropies: of each prediction, in nats; None where it is no number; 0 of a forecast.
        frozen: what the frozen model answers.
        frozen_entropies: of these answers.
        asked: "classes", or "series".
    """

    number: int
    round: int
    position: int
    keys: tuple[str, ...]
    domains: tuple[str, ...]
    answers: tuple[str | None, ...]
    known: tuple[bool, ...]
    probabilities: torch.Tensor = field(repr=False)
    predicted: tuple[str | None, ...]
    entropies: tuple[float | None, ...] = field(repr=False)
    frozen: tuple[str, ...]
    frozen_entropies: tuple[float, ...] = field(repr=False)
    asked: Asked = "classes"

    def scores(self, answers: tuple[str | None, ...]) -> tuple[float | None, ...]:
        """1 where an answer is right, 0 where it is wrong; None where there is no label or the class is unknown.

        Of a series 1 / (1 + mean squared error), 0 for a forecast that is not a number.
        """
        if self.asked == "series":
            return tuple(map(score_of, self.errors(answers)))
        return tuple(
            None if right is None or not known else float(given == right)
            for given, right, known in zip(answers, self.answers, self.known, strict=True)
        )

    def errors(self, answers: tuple[str | None, ...]) -> tuple[float, ...]:
        """Mean squared errors of forecasts of a series; infinite where one is not a number."""
        return tuple(error_of(given, str(right)) for given, right in zip(answers, self.answers, strict=True))


@dataclass(frozen=True)
class StreamUpdate:
    """What became of a batch after it was issued.

    Attributes:
        signals: what was learned from, by example.
        signs: what the watch saw.
        alarm: what is wrong, as a clause; empty where nothing is.
        reset: why the adapter was put back to its start; empty where it was not.
        stopped: whether the run ends here.
    """

    signals: Signals
    signs: BatchSigns
    alarm: str = ""
    reset: str = ""
    stopped: bool = False
