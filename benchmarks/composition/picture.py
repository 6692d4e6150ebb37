"""Draws scores against examples as one small SVG file that reads well on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from benchmarks.claims.worlds import GENERIC
from benchmarks.composition.arms import CURVES as COMPOSERS
from benchmarks.composition.arms import ONE, REFERENCES, SIZES, Arm
from benchmarks.composition.cells import Cells, Key
from genepool.report.colour import CURVES
from genepool.report.svg import Scale, dots, element, polyline, ticks

_WIDTH, _HEIGHT = 860, 330
_PANEL, _LEFT, _GAP, _TOP, _BOTTOM = 270, 44, 60, 34, 280
_LEGEND = _LEFT + 2 * _PANEL + _GAP + 24
# References that are lines across the panel, and the routed ones, which have examples.
_GREY = tuple(arm for arm in REFERENCES if arm.name != "tuned task arithmetic")


def draw(cells: Cells, beds: Sequence[str]) -> str:
    """The file's text: a panel a testbed, a curve a composer, references in grey."""
    names = [arm.name for arm in COMPOSERS]
    panels = [_panel(cells, bed, _LEFT + place * (_PANEL + _GAP)) for place, bed in enumerate(beds[:2])]
    legend = [
        element("text", name, class_=f"c{at}", x=_LEGEND + 26, y=_TOP + 8 + 20 * at) for at, name in enumerate(names)
    ]
    legend += [
        element("path", class_=f"line c{at}", d=polyline([(_LEGEND, y := _TOP + 4 + 20 * at), (_LEGEND + 20, y)]))
        for at in range(len(names))
    ]
    picture = element(
        "svg",
        element("title", "Mean score over the skills against examples of each task"),
        element("style", Markup(_css(len(names)))),
        *panels,
        *legend,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    return str(picture) + "\n"


def _panel(cells: Cells, bed: str, left: float) -> Markup:
    sizes, seeds = drawn(cells, bed)
    curves = [(f"c{at}", _points(cells, bed, arm, sizes, seeds)) for at, arm in enumerate(COMPOSERS)]
    grey = [(arm.name, _points(cells, bed, arm, sizes, seeds)) for arm in _GREY]
    seen = [score for _, points in (*curves, *grey) for _, score in points] or [0.0, 1.0]
    y = Scale(min(seen) - 0.02, max(seen) + 0.02, _BOTTOM, _TOP)
    parts = [
        element("path", class_="axis", d=polyline([(left, _TOP), (left, _BOTTOM), (left + _PANEL, _BOTTOM)])),
        element("text", f"{bed}, {len(seeds)} seed{'s' * (len(seeds) != 1)}", x=left, y=_TOP - 14),
        element("text", "examples of each task", x=left + _PANEL, y=_BOTTOM + 38, text_anchor="end"),
    ]
    parts += [element("text", str(size), x=_at(size, left), y=_BOTTOM + 18, text_anchor="middle") for size in SIZES]
    for value in ticks(y.low, y.high):
        parts.append(element("path", class_="grid", d=polyline([(left, y(value)), (left + _PANEL, y(value))])))
        parts.append(element("text", f"{value:g}", x=left - 8, y=y(value) + 4, text_anchor="end"))
    for name, points in grey:
        if points:
            places = [(_at(size, left), y(score)) for size, score in points]
            ends = [(left, places[0][1]), (left + _PANEL, places[0][1])] if len(places) == 1 else places
            parts.append(element("path", class_="grey", d=polyline(ends)))
            parts.append(element("text", name, class_="small", x=left + _PANEL, y=places[-1][1] - 4, text_anchor="end"))
    for style, points in curves:
        if points:
            places = [(_at(size, left), y(score)) for size, score in points]
            parts.append(element("path", class_=f"line {style}", d=polyline(places)))
            parts.append(element("path", class_=f"dots {style}", d=dots(places)))
    return element("g", *parts)


def drawn(cells: Cells, bed: str) -> tuple[tuple[int, ...], list[int]]:
    """The numbers of examples of a panel and its seeds, which all curves have in common, so that they can be compared.

    All numbers where a seed has them all, otherwise the start and one more.
    """
    for sizes in (SIZES, (0, ONE)):
        known = [cells.seeds(bed, arm.name, size) for arm in COMPOSERS for size in sizes]
        if seeds := sorted(set.intersection(*map(set, known))):
            return sizes, seeds
    return SIZES, []


def _points(cells: Cells, bed: str, arm: Arm, sizes: Sequence[int], seeds: Sequence[int]) -> list[tuple[int, float]]:
    """The mean over the seeds for each number of examples, where all of them are there."""
    keys = {size: [Key(bed, seed, arm.name, size) for seed in seeds] for size in sizes if size in arm.sizes}
    return [
        (size, float(np.mean([cells[key].mean(GENERIC) for key in named])))
        for size, named in keys.items()
        if named and all(key in cells for key in named)
    ]


def _at(size: int, left: float) -> float:
    """Numbers of examples stand evenly apart."""
    return left + 20 + SIZES.index(size) * (_PANEL - 40) / (len(SIZES) - 1)


def _css(count: int) -> str:
    rules = [
        "text{font:12px system-ui,sans-serif;fill:#47505a}.small{font-size:10px}",
        "path{fill:none;stroke-linecap:round}",
        ".axis{stroke:#47505a}.grid{stroke:#8888;stroke-width:.5}",
        ".grey{stroke:#8a8f96;stroke-dasharray:1 5;stroke-width:2}",
        ".line{stroke-width:1.5}.dots{stroke-width:6}",
    ]
    dark = ["text{fill:#aeb8c2}", ".axis{stroke:#aeb8c2}"]
    for at in range(count):
        light, night = CURVES[at % len(CURVES)]
        # Beyond the palette the same colours come again, with broken lines.
        broken = "stroke-dasharray:5 4" if at >= len(CURVES) else ""
        rules.append(f".c{at}{{stroke:{light}}}.line.c{at}{{{broken}}}text.c{at}{{stroke:none;fill:{light}}}")
        dark.append(f".c{at}{{stroke:{night}}}text.c{at}{{stroke:none;fill:{night}}}")
    return "".join(rules) + "@media(prefers-color-scheme:dark){" + "".join(dark) + "}"
