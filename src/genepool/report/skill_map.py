"""A map of skills: each a disc in the plane, near to those it is like; one SVG, by itself or in a page.

Colours follow the reader's light or dark setting, names that would cover each other are left to the tooltips, and
nothing is loaded from anywhere. Uses the report's svg and colour rooms; the command line writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from genepool.errors import InputError
from genepool.report.colour import CURVES
from genepool.report.svg import Scale, element, joined
from genepool.staging import write_text

_WIDTH, _HEIGHT, _MARGIN, _LEGEND = 960.0, 640.0, 48.0, 30.0
_SMALLEST, _LARGEST = 5.0, 18.0
# About what a character takes, and a line.
_LETTER, _LINE = 7.2, 15.0
_OTHERS = "others"
_FOR_ALL = "text{font:13px system-ui,sans-serif;fill:var(--ink)}circle{fill-opacity:.72;stroke:var(--paper)}"


@dataclass(frozen=True)
class Disc:
    """A skill on the map.

    Attributes:
        name: what it is called.
        x, y: its place, in any unit.
        bytes: its size; the disc's area goes with it.
        group: what it is coloured by.
        note: what the tooltip says beside the name.
    """

    name: str
    x: float
    y: float
    bytes: int
    group: str
    note: str = ""


def write_skill_map(
    discs: Sequence[Disc], path: str | Path, title: str, coloured_by: str, *, overwrite: bool = True
) -> Path:
    """Writes the map, whole or not at all, as .svg or .html, and returns where it is.

    Args:
        discs: the skills.
        path: the file; its ending decides.
        title: what the map is of.
        coloured_by: what the colours are ("base").
        overwrite: replace what is there.

    Raises:
        InputError: another ending, something is there and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".html"):
        raise InputError("the name must end in .svg or .html", where=path, fix=f"Name it {path.stem}.html")
    picture = skill_map(discs, title, coloured_by)
    write_text(path, f"{picture}\n" if path.suffix == ".svg" else _page(picture, title), overwrite=overwrite)
    return path


def skill_map(discs: Sequence[Disc], title: str, coloured_by: str) -> Markup:
    """The picture, with its own style sheet."""
    groups = _groups(discs)
    x, y = _scales(discs)
    most = max((disc.bytes for disc in discs), default=1) or 1
    # Large discs first, so that none hides under another.
    ordered = sorted(discs, key=lambda disc: (-disc.bytes, disc.name))
    radii = [_SMALLEST + (_LARGEST - _SMALLEST) * (disc.bytes / most) ** 0.5 for disc in ordered]
    drawn = [
        element(
            "circle",
            element("title", f"{disc.name}\n{disc.note}" if disc.note else disc.name),
            class_=f"g{groups.index(disc.group if disc.group in groups else _OTHERS)}",
            cx=x(disc.x),
            cy=y(disc.y),
            r=radius,
        )
        for disc, radius in zip(ordered, radii, strict=True)
    ]
    places = [(x(disc.x), y(disc.y)) for disc in ordered]
    return element(
        "svg",
        element("title", title),
        element("style", Markup(_style())),
        element("rect", class_="paper", x=0.0, y=0.0, width=_WIDTH, height=_HEIGHT),
        element("g", *drawn),
        element("g", *_labels([disc.name for disc in ordered], places, radii)),
        _legend(groups, coloured_by),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
    )


def _groups(discs: Sequence[Disc]) -> list[str]:
    """Those with a colour of their own, the largest first; what there are no colours for goes together."""
    ranked = sorted(Counter(disc.group for disc in discs).items(), key=lambda item: (-item[1], item[0]))
    names = [name for name, _ in ranked]
    return names if len(names) <= len(CURVES) else [*names[: len(CURVES) - 1], _OTHERS]


def _scales(discs: Sequence[Disc]) -> tuple[Scale, Scale]:
    """One unit is as long across as it is up; the middle is in the middle."""
    xs, ys = [disc.x for disc in discs] or [0.0], [disc.y for disc in discs] or [0.0]
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN - _LEGEND
    unit = max((max(xs) - min(xs)) / width, (max(ys) - min(ys)) / height) or 1.0
    middle_x, middle_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    reach_x, reach_y = unit * width / 2, unit * height / 2
    return (
        Scale(middle_x - reach_x, middle_x + reach_x, _MARGIN, _MARGIN + width),
        Scale(middle_y - reach_y, middle_y + reach_y, _MARGIN + height, _MARGIN),
    )


def _labels(names: Sequence[str], places: Sequence[tuple[float, float]], radii: Sequence[float]) -> list[Markup]:
    taken = [(x - radius, y - radius, x + radius, y + radius) for (x, y), radius in zip(places, radii, strict=True)]
    found = []
    for name, (x, y), radius in zip(names, places, radii, strict=True):
        shown = name if len(name) <= 32 else f"{name[:31]}…"
        width, away = _LETTER * len(shown), radius + 4
        # To the right of the disc, to the left, below or above: where there is room first.
        for anchor, at, middle in (
            ("start", x + away, y),
            ("end", x - away, y),
            ("middle", x, y + away + _LINE / 2),
            ("middle", x, y - away - _LINE / 2),
        ):
            left = at - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
            inside = left >= 0 and box[2] <= _WIDTH and box[1] >= 0 and box[3] <= _HEIGHT - _LEGEND
            if inside and not any(_cross(box, other) for other in taken):
                taken.append(box)
                found.append(element("text", shown, x=at, y=middle + 4, text_anchor=anchor))
                break
    return found


def _cross(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _legend(groups: Sequence[str], coloured_by: str) -> Markup:
    parts: list[Markup] = [element("text", f"{coloured_by}:", x=_MARGIN, y=_HEIGHT - 16)]
    at = _MARGIN + _LETTER * (len(coloured_by) + 2)
    for i, name in enumerate(groups):
        shown = (name if len(name) <= 24 else f"…{name[-23:]}") or "none"
        if at + 16 + _LETTER * len(shown) > _WIDTH:
            break
        parts.append(
            element("circle", element("title", name or "none"), class_=f"g{i}", cx=at + 5, cy=_HEIGHT - 20, r=5.0)
        )
        parts.append(element("text", shown, x=at + 16, y=_HEIGHT - 16))
        at += 32 + _LETTER * len(shown)
    return element("g", *parts)


def _style() -> str:
    light = "".join(f".g{i}{{fill:{colours[0]}}}" for i, colours in enumerate(CURVES))
    dark = "".join(f".g{i}{{fill:{colours[1]}}}" for i, colours in enumerate(CURVES))
    return (
        f"svg{{--ink:#1c2126;--paper:#fff}}.paper{{fill:var(--paper)}}{_FOR_ALL}{light}"
        f"@media(prefers-color-scheme:dark){{svg{{--ink:#e6e9ec;--paper:#14181c}}{dark}}}"
    )


def _page(picture: Markup, title: str) -> str:
    style = (
        "body{margin:0;background:#fff}svg{display:block;width:100%;height:100vh}"
        "@media(prefers-color-scheme:dark){body{background:#14181c}}"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"{element('title', title)}\n{element('style', Markup(style))}\n</head>\n"
        f"<body>\n{joined([picture])}\n</body>\n</html>\n"
    )
