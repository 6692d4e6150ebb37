"""Lines along a stream: scores of the adapted and the frozen model with a paired band, or the signs of the watch.

Draws with the report's svg and colour rooms; the page of an adaptation uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from genepool.report.colour import curve_class
from genepool.report.svg import Scale, element, number, polyline, ticks


@dataclass(frozen=True)
class StreamLine:
    """A line.

    Attributes:
        name: what it is.
        points: (batches before, value).
        band: (batches before, low, high), drawn behind it; empty for none.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()


def stream_figure(
    lines: Sequence[StreamLine], ends: Sequence[int], marks: Sequence[tuple[int, str]], *, width: float, height: float
) -> Markup:
    """The picture, in a view box of `width` x `height` pixels; empty where there is nothing to draw.

    Args:
        lines: from 0 to 1.
        ends: numbers of batches after which a round ended.
        marks: (batches before, what happened), such as resets.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup("")
    left, right, top, bottom = 44.0, 20.0, 14.0, 40.0
    x = Scale(0, max(*(at for at, _ in points), *ends, 1), left, width - right)
    y = Scale(0, 1, height - bottom, top)
    parts: list[Markup] = []
    for value in ticks(0, 1, 4):
        parts.append(element("line", class_="grid", x1=x.start, x2=x.end, y1=y(value), y2=y(value)))
        parts.append(element("text", f"{value:g}", class_="tick end", x=x.start - 8, y=y(value) + 4))
    parts += [element("line", class_="grid", x1=x(end), x2=x(end), y1=y.start, y2=y.end) for end in ends]
    parts.append(element("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    parts += [
        element("text", f"{int(value):,}", class_="tick middle", x=x(value), y=y.start + 18)
        for value in ticks(0, x.high, 6)
        if value == int(value)
    ]
    parts.append(element("text", "batches", class_="label middle", x=(x.start + x.end) / 2, y=height - 5))
    for place, line in enumerate(lines):
        if line.band:
            edge = [(x(at), y(high)) for at, _, high in line.band]
            edge += [(x(at), y(low)) for at, low, _ in reversed(line.band)]
            parts.append(element("path", class_=f"band {curve_class(place)}", d=polyline(edge, closed=True)))
        if len(line.points) > 1:
            drawn = polyline([(x(at), y(value)) for at, value in line.points])
            parts.append(element("path", class_=f"best {curve_class(place)}", d=drawn))
    for at, what in marks:
        mark = element("line", element("title", what), class_="axis", x1=x(at), x2=x(at), y1=y.start, y2=y.end)
        parts.append(mark)
    spoken = f"{', '.join(line.name for line in lines)} along {int(x.high):,} batches, {len(marks)} marks"
    return element(
        "svg",
        element("title", spoken),
        *parts,
        class_="chart",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
    )
