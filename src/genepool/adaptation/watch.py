"""The watch: signs that an adapter has collapsed, from its predictions alone, beside those of the frozen model.

No label is needed. The frozen model on the same batches says what is usual, so that a stream whose labels come sorted
raises no alarm. `Watch` looks at classes, `SeriesWatch` at forecasts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from genepool.adaptation.stream_model import entropy_of
from genepool.checked import is_number, is_whole

#: Batches that the watch looks at together. Ours, as are the limits below.
WINDOW = 10
#: The commonest prediction is too common from this share on, where it is also so much commoner than the frozen
#: model's.
COMMON, COMMONER = 0.5, 0.2
#: The mean prediction says too little from this share of the frozen model's entropy on.
NARROW = 0.5
#: While an alarm lasts, its limits are so much easier to pass, so that a value near one raises it once.
EASED = 0.8
#: Forecasts spread too little from this share of the frozen model's spread on, and too much from its inverse on.
FLAT = 0.1


@dataclass(frozen=True)
class BatchSigns:
    """What is seen of one batch.

    Attributes:
        commonest: share of the commonest prediction; 0 of forecasts.
        spread: entropy of the mean prediction, in nats; of forecasts, their standard deviation.
        kept: share of the examples that were learned from.
        broken: whether a probability is no number.
    """

    commonest: float
    spread: float
    kept: float
    broken: bool


class Alarms(ABC):
    """Looks at batch after batch; its state is plain data."""

    def __init__(self) -> None:
        # Batches without anything wrong that an alarm still waits for; 0 where none lasts.
        self._lasting = 0

    @abstractmethod
    def look(self, adapted: torch.Tensor, frozen: torch.Tensor, kept: float) -> tuple[BatchSigns, str]:
        """Takes a batch into account.

        Args:
            adapted: what was issued, an example a row.
            frozen: of the frozen model, on the same examples.
            kept: share of the examples that were learned from.

        Returns:
            Its signs, and an alarm: what is wrong, as a clause. It is empty where nothing is, and where an alarm
            lasts. One ends after a window of batches that stay clear of the limits.
        """

    def forget(self) -> None:
        """Begins anew, as after a reset."""
        self._lasting = 0

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """As plain data; numbers keep all of their bits."""

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        self.forget()
        if not is_whole(state["lasting"], 0, WINDOW):
            raise ValueError("lasting that is no number of batches")
        self._lasting = state["lasting"]

    def _raised(self, wrong: str) -> str:
        """What is wrong, unless an alarm lasts already."""
        before = self._lasting
        self._lasting = WINDOW if wrong else max(0, before - 1)
        return "" if before else wrong


class Watch(Alarms):
    """Looks at the probabilities of classes.

    Args:
        classes: their number.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self._counts: deque[tuple[list[int], list[int]]] = deque(maxlen=WINDOW)
        self._means: deque[tuple[list[float], list[float]]] = deque(maxlen=WINDOW)

    def look(self, adapted: torch.Tensor, frozen: torch.Tensor, kept: float) -> tuple[BatchSigns, str]:
        if not bool(adapted.isfinite().all()):
            return BatchSigns(1.0, 0.0, kept, True), self._raised("a prediction is not a number")
        counts = torch.bincount(adapted.argmax(-1), minlength=self._classes)
        usual = torch.bincount(frozen.argmax(-1), minlength=self._classes)
        mean = adapted.double().mean(0)
        self._counts.append((counts.tolist(), usual.tolist()))
        self._means.append((mean.tolist(), frozen.double().mean(0).tolist()))
        signs = BatchSigns(float(counts.max()) / len(adapted), float(entropy_of(mean)), kept, False)
        return signs, self._raised(self._wrong())

    def forget(self) -> None:
        super().forget()
        self._counts.clear()
        self._means.clear()

    def _wrong(self) -> str:
        ease = EASED if self._lasting else 1.0
        if len(self._counts) < WINDOW:
            return ""
        (ours, theirs), (mean, usual) = (
            [torch.tensor([pair[side] for pair in seen], dtype=torch.float64).mean(0) for side in (0, 1)]
            for seen in (self._counts, self._means)
        )
        common, was = float(ours.max() / ours.sum()), float(theirs.max() / theirs.sum())
        if common >= ease * COMMON and common >= was + ease * COMMONER:
            return f"{common:.0%} of the predictions are one class, {was:.0%} of the frozen model's"
        spread, was = float(entropy_of(mean)), float(entropy_of(usual))
        if spread * ease <= NARROW * was:
            return f"the entropy of the mean prediction is {spread:.2f} nats, {was:.2f} of the frozen model"
        return ""

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        return {
            "counts": [list(pair) for pair in self._counts],
            "means": [list(pair) for pair in self._means],
            "lasting": self._lasting,
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        for seen, name in ((self._counts, "counts"), (self._means, "means")):
            for ours, theirs in state[name]:
                if len(ours) != self._classes or len(theirs) != self._classes:
                    raise ValueError(f"{name} of another number of classes")
                if not all(isinstance(one, int | float) and math.isfinite(one) for one in (*ours, *theirs)):
                    raise ValueError(f"{name} that are no numbers")
                seen.append((ours, theirs))


class SeriesWatch(Alarms):
    """Looks at forecasts: whether they still spread as those of the frozen model do."""

    def __init__(self) -> None:
        super().__init__()
        self._spreads: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def look(self, adapted: torch.Tensor, frozen: torch.Tensor, kept: float) -> tuple[BatchSigns, str]:
        if not bool(adapted.isfinite().all()):
            return BatchSigns(0.0, 0.0, kept, True), self._raised("a forecast is not a number")
        ours, theirs = (float(one.double().std(unbiased=False)) for one in (adapted, frozen))
        self._spreads.append((ours, theirs))
        return BatchSigns(0.0, ours, kept, False), self._raised(self._wrong())

    def forget(self) -> None:
        super().forget()
        self._spreads.clear()

    def _wrong(self) -> str:
        if len(self._spreads) < WINDOW:
            return ""
        ease = EASED if self._lasting else 1.0
        ours, theirs = (sum(pair[side] for pair in self._spreads) / WINDOW for side in (0, 1))
        if ours * ease < FLAT * theirs or ours * FLAT > ease * theirs:
            return f"the forecasts spread by {ours:.3g}, those of the frozen model by {theirs:.3g}"
        return ""

    def state(self) -> dict[str, Any]:
        return {"spreads": [list(pair) for pair in self._spreads], "lasting": self._lasting}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        for ours, theirs in state["spreads"]:
            if not (is_number(ours, 0) and is_number(theirs, 0)):
                raise ValueError("spreads that are no numbers")
            self._spreads.append((ours, theirs))
