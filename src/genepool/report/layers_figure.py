"""A number per layer as lines, one per model: how it runs from the bottom of a stack to its top.

Layers without a number leave a gap in the axis, not in the line. Uses the report's svg and colour rooms; the page of
an inspection uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from genepool.report.colour import curve_class
from genepool.report.svg import Scale, dots, element, number, polyline, ticks

Points = Sequence[tuple[int, float]]


def layers_figure(
    lines: Sequence[Points],
    spoken: str,
    *,
    spreads: Sequence[Sequence[tuple[int, float, float]]] = (),
    unit: str = "",
    width: float,
    height: float,
) -> Markup:
    """The picture, in a view box of `width` x `height` pixels; empty when no line has a point.

    Args:
        lines: (layer, value) of each model, by layer; values are not negative.
        spoken: what it shows, for those who do not see it.
        spreads: (layer, low, high) of each model, what its number at that layer was made of; empty where it is exact.
        unit: written behind the numbers of the axis.
    """
    values = [value for line in lines for _, value in line]
    if not values:
        return Markup("")
    values += [high for spread in spreads for _, _, high in spread]
    layers = [layer for line in lines for layer, _ in line]
    left, right, top, bottom = 52.0, 14.0, 10.0, 40.0
    x = Scale(min(layers), max(layers), left + 10, width - right - 10)
    y = Scale(0.0, max(values) * 1.06 or 1.0, height - bottom, top)
    parts = [_axes(x, y, left, width - right, unit, height)]
    for i, line in enumerate(lines):
        points = [(x(layer), y(value)) for layer, value in line]
        if points:
            path = element("path", class_="best", d=polyline(points))
            marks = element("path", class_="marks", d=dots(points))
            # Models stand a little apart, so that none hides how far another's matrices are apart.
            shift = (i - (len(lines) - 1) / 2) * min(4.0, 24.0 / len(lines))
            ends = "".join(
                f"M{number(x(layer) + shift)} {number(y(low))}V{number(y(high))}"
                for layer, low, high in (spreads[i] if spreads else ())
            )
            whiskers = element("path", class_="whisker thin", d=ends) if ends else ""
            parts.append(element("g", whiskers, path, marks, class_=curve_class(i), data_series=str(i)))
    return element(
        "svg",
        element("title", spoken),
        *parts,
        class_="chart",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
    )


def _axes(x: Scale, y: Scale, left: float, right: float, unit: str, height: float) -> Markup:
    parts: list[Markup] = []
    for value in ticks(y.low, y.high, 4):
        at = y(value)
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=at, y2=at))
        parts.append(element("text", f"{value:g}{unit}", class_="tick end", x=left - 8, y=at + 4))
    parts.append(element("line", class_="axis", x1=left, x2=right, y1=y.start, y2=y.start))
    for value in ticks(x.low, x.high, min(int(x.high - x.low) or 1, 5 if right < 500 else 12)):
        if value == int(value):
            at = x(value)
            parts.append(element("line", class_="axis", x1=at, x2=at, y1=y.start, y2=y.start + 4))
            parts.append(element("text", f"{int(value)}", class_="tick middle", x=at, y=y.start + 18))
    parts.append(element("text", "layer", class_="label middle", x=(left + right) / 2, y=height - 5))
    return element("g", *parts)
