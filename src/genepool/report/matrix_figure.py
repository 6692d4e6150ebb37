"""The scores of every task after every task as a picture: a grid of cells, darker where more is answered right.

Each cell says its score in words too, so nothing hangs on a colour. Draws with the report's svg room; the page of tasks
learned in order uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from genepool.report.svg import element, number
from genepool.report.text import percent

_CELL, _TOP, _LETTER, _WIDEST = 40.0, 56.0, 7.2, 22


def matrix_figure(
    rows: Sequence[str],
    columns: Sequence[str],
    scores: Sequence[Sequence[float]],
    own: Sequence[int | None],
    width: float,
) -> Markup:
    """The picture; empty where there is nothing to draw.

    Args:
        rows: what was learned last before each row was asked.
        columns: the tasks that were asked.
        scores: from 0 to 1, a row for each of `rows`.
        own: of each row the column of the task that it had just learned; it has a frame. None where there is none.
        width: of the view box, in pixels.
    """
    if not rows or not columns:
        return Markup("")
    names = [_short(name) for name in rows]
    left = 16 + _LETTER * max(map(len, names))
    wide = (width - left - 8) / len(columns)
    parts = []
    for at, name in enumerate(columns):
        short = _short(name, max(3, int(wide / _LETTER)))
        parts.append(
            element(
                "text", element("title", name), short, class_="tick middle", x=left + (at + 0.5) * wide, y=_TOP - 10
            )
        )
    for line, (name, values) in enumerate(zip(names, scores, strict=True)):
        y = _TOP + line * _CELL
        parts.append(element("text", name, class_="tick end", x=left - 8, y=y + _CELL / 2 + 4))
        for at, score in enumerate(values):
            x = left + at * wide
            spoken = f"{columns[at]} after {rows[line]}: {percent(score)}%"
            kind = "mark won c0" if own[line] == at else "mark c0"
            size = {"width": wide - 2, "height": _CELL - 2}
            strength = f"{0.06 + 0.5 * score:.3f}"
            title = element("title", spoken)
            parts.append(element("rect", title, class_=kind, x=x + 1, y=y + 1, fill_opacity=strength, **size))
            parts.append(element("text", percent(score), class_="label middle", x=x + wide / 2, y=y + _CELL / 2 + 4))
    height = _TOP + len(rows) * _CELL + 8
    whole = f"scores of {len(columns)} tasks before learning and after each of {len(rows) - 1} tasks"
    box = f"0 0 {number(width)} {number(height)}"
    return element("svg", element("title", whole), *parts, class_="chart", viewBox=box, role="img")


def _short(name: str, most: int = _WIDEST) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
