"""Inline SVG as text: elements that escape what they are given, straight scales, and round tick marks.

Colours and fonts come from the page's style sheet through classes, so that one picture serves light and dark. Uses
markupsafe and the report's text room; every figure is drawn with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from genepool.report.text import clean


def element(tag: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """One SVG or HTML element.

    Args:
        tag: its name.
        children: markup is taken as it is, plain text is escaped.
        attributes: `class_` and `stroke_width` are written `class` and `stroke-width`; None leaves one out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = joined(children)
    return Markup(f"<{tag}{written}>{inside}</{tag}>" if inside else f"<{tag}{written}/>")


def joined(parts: Iterable[str | Markup]) -> Markup:
    """Markup and escaped plain text, one after the other."""
    return Markup("").join(part if isinstance(part, Markup) else escape(clean(part)) for part in parts)


def number(value: float) -> str:
    """A coordinate to a tenth of a pixel, without a trailing zero."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def polyline(points: Sequence[tuple[float, float]], *, closed: bool = False) -> str:
    """The `d` of a path through the points."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points) + ("Z" if closed else "")


def dots(points: Iterable[tuple[float, float]]) -> str:
    """The `d` of a path that a round line cap turns into one dot per point: far smaller than circles."""
    return "".join(f"M{number(x)} {number(y)}h0" for x, y in points)


@dataclass(frozen=True)
class Scale:
    """A straight map from data [low, high] to pixels [start, end]; an empty range maps to the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside [low, high], about as many as asked for: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    size = min((1, 2, 5, 10), key=lambda unit: abs(math.log(unit * power / rough))) * power
    first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
    return [round(i * size, 12) for i in range(first, last + 1)]


def _attribute(value: str | float) -> Markup:
    return escape(clean(value)) if isinstance(value, str) else Markup(number(value))
