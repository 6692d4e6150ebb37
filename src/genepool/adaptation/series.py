"""Series as streams: a line is one step of time, and an example is a window of the past with the steps that follow it.

Cuts windows, writes forecasts as text that keeps every bit, and scores them. Plain numbers in and out; `stream` reads
the lines, `series_task` asks models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from genepool.checked import parsed_json
from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

#: Numbers that the windows of a stream may hold together: each takes eight bytes, and twice that in a list.
MOST_NUMBERS = 20_000_000
# The largest number of 32 bits, which models compute in.
_LARGEST = 3.4028234e38


class SeriesLine(NamedTuple):
    """One step of time.

    Attributes:
        key: its id.
        values: of the variables.
        domain: where it is from.
    """

    key: str
    values: tuple[float, ...]
    domain: str


class SeriesWindow(NamedTuple):
    """A window of the past and what follows it.

    Attributes:
        key: the id of the last step of the past.
        past: flat values, step after step, (lookback, variables).
        future: flat values, (horizon, variables).
        domain: that of the first step that follows.
        end: the number of the last step of the past, counted from 0.
    """

    key: str
    past: tuple[float, ...]
    future: tuple[float, ...]
    domain: str
    end: int


def windows_of(
    lines: Sequence[SeriesLine], lookback: int, horizon: int, stride: int, where: str
) -> tuple[SeriesWindow, ...]:
    """Every window of a series whose future is on record.

    Args:
        lines: the steps in the order of time.
        lookback: steps of the past in a window.
        horizon: steps that follow.
        stride: steps from one window to the next.
        where: for errors.

    Raises:
        InputError: the series is too short for one window, or the windows hold too many numbers.
    """
    last = len(lines) - horizon
    ends = range(lookback - 1, last, stride)
    if not ends:
        raise InputError(
            f"has {len(lines)} steps, expected {lookback + horizon} or more: a window and what follows it",
            where=where,
            fix="Add steps, or set a smaller `lookback` or `horizon` in stream.json",
        )
    variables = len(lines[0].values)
    numbers = len(ends) * (lookback + horizon) * variables
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"its {len(ends):,} windows hold {numbers:,} numbers, expected at most {MOST_NUMBERS:,}",
            where=where,
            fix="Set a larger `stride` in stream.json, or shorten the series",
        )
    flat = [value for line in lines for value in line.values]

    def cut(start: int, stop: int) -> tuple[float, ...]:
        return tuple(flat[start * variables : stop * variables])

    return tuple(
        SeriesWindow(
            lines[end].key,
            cut(end + 1 - lookback, end + 1),
            cut(end + 1, end + 1 + horizon),
            lines[end + 1].domain,
            end,
        )
        for end in ends
    )


def written(values: Sequence[float]) -> str:
    """Numbers as text, from which the same float32 are read back."""
    return json.dumps([float(f"{value:.9g}") for value in values])


def error_of(forecast: str | None, truth: str) -> float:
    """The mean squared error of a forecast, both as `written` gives them; infinite for none, or one that overflows.

    Raises:
        ValueError: they are not as many.
    """
    if forecast is None:
        return math.inf
    pairs = zip(parsed_json(forecast), parsed_json(truth), strict=True)
    squares = [_square(one - other) for one, other in pairs]
    return sum(squares) / len(squares)


def _square(value: float) -> float:
    return value * value


def score_of(error: float) -> float:
    """1 / (1 + error): 1 for no error, 1/2 for one as large as the unit's square, 0 for an infinite one."""
    return 1 / (1 + error)


def squared_errors(forecasts: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each forecast, shape (n,), float64; both of shape (n, horizon, variables)."""
    found: torch.Tensor = (forecasts.double() - truth.double()).square().flatten(1).mean(-1)
    return found


def dominant_period(window: torch.Tensor, most: int) -> int:
    """The period of a window's strongest frequency, as PETSA and TAFAS take it, at least 1.

    The window less its mean goes through a Fourier transform; of the variable with the most power the largest amplitude
    counts. A trend looks like a period as long as the window.

    Args:
        window: shape (lookback, variables).
        most: the longest period that is told.
    """
    import torch

    amplitude = torch.fft.rfft((window - window.mean(0)).double(), dim=0).abs()
    strongest = int(amplitude.square().mean(0).argmax())
    frequency = max(1, int(amplitude[:, strongest].argmax()))
    return max(1, min(most, len(window) // frequency))


def checked_lines(rows: Sequence[Any], shape: tuple[int, ...], where: str) -> None:
    """Refuses lines of a series that say what only other streams have.

    Args:
        rows: examples of a stream as they were read.
        shape: that all of them have.
        where: their file, for errors.

    Raises:
        InputError: naming the line and the key, or the shape.
    """
    for row in rows:
        extra = {
            "prompt": row.prompt is not None, "answer": row.answer is not None, "severity": row.severity is not None,
            "known": not row.known,
        }  # fmt: skip
        if (key := next((name for name, there in extra.items() if there), None)) is not None:
            raise InputError(
                f"has `{key}`, which a step of a series has not", where=f"{where}:{row.key}", fix="Leave it out"
            )
        if (large := next((one for one in row.numbers if abs(one) > _LARGEST), None)) is not None:
            raise InputError(
                f"got {large:g}, expected at most {_LARGEST:g}", where=f"{where}:{row.key}", fix="Scale the series"
            )
    if len(shape) != 1:
        raise InputError(
            f"a step has the shape {list(shape)}, expected [variables]",
            where=where,
            fix='Write lines like {"id": "1", "input": [1.5]}',
        )
