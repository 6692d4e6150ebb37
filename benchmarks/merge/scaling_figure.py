"""Draws the two panels of the scaling benchmark as one small SVG file that reads well on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from genepool.report.colour import CURVES
from genepool.report.svg import Scale, dots, element, polyline, ticks

if TYPE_CHECKING:
    from benchmarks.merge.scaling import Point

_WIDTH, _HEIGHT = 720, 280
_PANEL, _LEFT, _TOP, _BOTTOM = 300, 44, 34, 230


def draw(by_size: Mapping[str, Sequence[Point]], by_models: Mapping[str, Sequence[Point]]) -> str:
    """The file's text: wall seconds against parameters on the left, against fine-tunes on the right."""
    panels = [
        _panel(by_size, "billions of parameters", _LEFT),
        _panel(by_models, "fine-tunes", _LEFT + _WIDTH // 2),
    ]
    picture = element(
        "svg",
        element("title", "Wall seconds of a merge against parameters and against models, with fitted lines"),
        element("style", Markup(_css(list(by_size)))),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    return str(picture) + "\n"


def _panel(curves: Mapping[str, Sequence[Point]], unit: str, left: float) -> Markup:
    from benchmarks.merge.scaling import fit

    points = [point for series in curves.values() for point in series]
    x = Scale(0, max(point.x for point in points) * 1.05, left, left + _PANEL)
    y = Scale(0, max(point.wall for point in points) * 1.08, _BOTTOM, _TOP)
    parts = [
        element("path", class_="axis", d=polyline([(left, _TOP), (left, _BOTTOM), (left + _PANEL, _BOTTOM)])),
        element("text", "wall seconds", x=left, y=_TOP - 14),
        element("text", unit, x=left + _PANEL, y=_BOTTOM + 36, text_anchor="end"),
    ]
    parts += [
        element("text", f"{value:g}", x=x(value), y=_BOTTOM + 18, text_anchor="middle") for value in ticks(0, x.high)
    ]
    for value in ticks(0, y.high):
        parts.append(element("path", class_="grid", d=polyline([(left, y(value)), (left + _PANEL, y(value))])))
        parts.append(element("text", f"{value:g}", x=left - 8, y=y(value) + 4, text_anchor="end"))
    for i, (name, series) in enumerate(curves.items()):
        seen = [(point.x, point.wall) for point in series]
        if len({at for at, _ in seen}) > 1:
            line = fit(seen)
            ends = [0.0, x.high]
            parts.append(element("path", class_=f"line c{i}", d=polyline([(x(at), y(line(at))) for at in ends])))
        parts.append(element("path", class_=f"dots c{i}", d=dots((x(at), y(wall)) for at, wall in seen)))
        parts.append(element("text", name, class_=f"name c{i}", x=left + 14 + 80 * i, y=_TOP + 6))
    return element("g", *parts)


def _css(names: Sequence[str]) -> str:
    rules = [
        "text{font:12px system-ui,sans-serif;fill:#47505a}",
        "path{fill:none;stroke-linecap:round}",
        ".axis{stroke:#47505a}.grid{stroke:#8888;stroke-width:.5}",
        ".line{stroke-width:1.5}.dots{stroke-width:7}.name{font-weight:600}",
    ]
    dark = ["text{fill:#aeb8c2}", ".axis{stroke:#aeb8c2}"]
    for i, _ in enumerate(names):
        rules.append(f".c{i}{{stroke:{CURVES[i][0]}}}text.c{i}{{stroke:none;fill:{CURVES[i][0]}}}")
        dark.append(f".c{i}{{stroke:{CURVES[i][1]}}}text.c{i}{{stroke:none;fill:{CURVES[i][1]}}}")
    return "".join(rules) + "@media(prefers-color-scheme:dark){" + "".join(dark) + "}"
