"""What confidence is worth, as two pictures: right against sure, and risk against coverage.

Both carry their 95% intervals: Wilson's of every bin, and those of the scores at round coverages. Uses the report's svg
room; the page of a profile uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from genepool.measure import Abstention, Calibration
from genepool.report.svg import Scale, dots, element, joined, number, polyline, ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 14.0, 12.0, 40.0
# Points of the curve that are drawn: more than a screen has is only weight.
_POINTS = 300


def reliability_figure(found: Calibration, *, size: float) -> Markup:
    """Share right over mean confidence, bin by bin, beside the diagonal of a calibrated model; `size` pixels square."""
    x, y = _square(size)
    parts = [_axes(x, y, size, "confidence, percent", "right, percent")]
    parts.append(element("line", class_="level", x1=x(0), x2=x(1), y1=y(0), y2=y(1)))
    points = [(x(one.confidence), y(one.right.mean)) for one in found.bins]
    whiskers = "".join(
        f"M{number(x(one.confidence))} {number(y(one.right.lo))}V{number(y(one.right.hi))}" for one in found.bins
    )
    told = "; ".join(
        f"{100 * one.confidence:.0f}% sure, {100 * one.right.mean:.0f}% right of {one.n:,}" for one in found.bins
    )
    series = [
        element("path", class_="median", d=polyline(points)),
        element("path", class_="whisker thin", d=whiskers),
        element("path", class_="spots", d=dots(points)),
    ]
    parts.append(element("g", *series, class_="c0"))
    return _chart(f"Calibration: {told}", parts, size)


def coverage_figure(found: Abstention, *, size: float) -> Markup:
    """Risk over coverage, from the surest answers on, with intervals at round coverages; `size` pixels square."""
    x, y = _square(size)
    curve = _thinned(found.curve)
    points = [(x(coverage), y(risk)) for coverage, risk in curve]
    whiskers = "".join(
        f"M{number(x(at.coverage))} {number(y(1 - at.right.hi))}V{number(y(1 - at.right.lo))}" for at in found.at
    )
    spots = [(x(at.coverage), y(1 - at.right.mean)) for at in found.at]
    told = "; ".join(
        f"{100 * (1 - at.right.mean):.0f}% wrong of the surest {100 * at.coverage:.0f}%" for at in found.at
    )
    series = [
        element("path", class_="best", d=polyline(points)) if len(points) > 1 else "",
        element("path", class_="whisker thin", d=whiskers),
        element("path", class_="spots", d=dots(spots)),
    ]
    axes = _axes(x, y, size, "answered, the surest first, percent", "wrong, percent")
    return _chart(f"Abstention: {told}", [axes, element("g", *series, class_="c0")], size)


def _thinned(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(curve) <= _POINTS:
        return list(curve)
    places = sorted({round(i * (len(curve) - 1) / (_POINTS - 1)) for i in range(_POINTS)})
    return [curve[place] for place in places]


def _square(size: float) -> tuple[Scale, Scale]:
    return Scale(0, 1, _LEFT, size - _RIGHT), Scale(0, 1, size - _BOTTOM, _TOP)


def _axes(x: Scale, y: Scale, size: float, across: str, up: str) -> Markup:
    parts = []
    for value in ticks(0, 1, 5):
        parts.append(element("line", class_="grid", x1=x(value), x2=x(value), y1=y(0), y2=y(1)))
        parts.append(element("line", class_="grid", x1=x(0), x2=x(1), y1=y(value), y2=y(value)))
        parts.append(element("text", f"{100 * value:.0f}", class_="tick middle", x=x(value), y=y(0) + 16))
        parts.append(element("text", f"{100 * value:.0f}", class_="tick end", x=x(0) - 6, y=y(value) + 4))
    middle = (y(0) + y(1)) / 2
    parts.append(element("text", across, class_="label middle", x=(x(0) + x(1)) / 2, y=size - 6))
    turned = f"rotate(-90 11 {number(middle)})"
    parts.append(element("text", up, class_="label middle", x=11, y=middle, transform=turned))
    return element("g", *parts)


def _chart(title: str, parts: Sequence[Markup], size: float) -> Markup:
    view = f"0 0 {number(size)} {number(size)}"
    return element("svg", element("title", title), joined(parts), class_="chart", viewBox=view, role="img")
