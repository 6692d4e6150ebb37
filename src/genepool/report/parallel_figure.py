"""Tasks side by side: a row for each, a dot with its interval for each model, and a line through a model's dots.

A parallel view turned on its side, so that names stay readable, thirty tasks fit, and a phone shows what a wide
screen does. Uses the report's svg room; the pages of a study and of a comparison use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from genepool.measure import Interval
from genepool.report.bars import common_range
from genepool.report.colour import curve_class
from genepool.report.svg import Scale, dots, element, number, polyline, ticks
from genepool.report.text import percent

_ROW, _TOP, _BOTTOM, _LETTER = 34.0, 10.0, 40.0, 7.0


@dataclass(frozen=True)
class ModelLine:
    """One model's line.

    Attributes:
        name: the model.
        scores: one per task, in the order of the rows.
        shown: whether it is drawn from the start; the reader shows the others by their names in the legend.
    """

    name: str
    scores: tuple[Interval, ...]
    shown: bool = True


def parallel_figure(tasks: Sequence[str], profiles: Sequence[ModelLine], *, width: float) -> Markup:
    """The picture, `width` pixels wide and as high as it has tasks; empty without scores."""
    if not any(score.measured for profile in profiles for score in profile.scores):
        return Markup("")
    height = _TOP + _ROW * len(tasks) + _BOTTOM
    longest = max(len(name) for name in tasks)
    left = min(_LETTER * longest + 16, width * 0.36)
    low, high = common_range(score for profile in profiles for score in profile.scores)
    x = Scale(low, high, left, width - 18)
    rows = [_TOP + _ROW * (i + 0.5) for i in range(len(tasks))]
    parts = [_axis(x, rows, height)]
    parts += [_name(name, left, at) for name, at in zip(tasks, rows, strict=True)]
    # Models on one row stand a little apart, so that none hides another's interval.
    for group in ([p for p in profiles if p.shown], [p for p in profiles if not p.shown]):
        step = min(6.0, (_ROW - 12) / max(len(group), 1))
        for i, profile in enumerate(group):
            shift = (i - (len(group) - 1) / 2) * step
            parts.append(_line(profile, profiles.index(profile), x, [at + shift for at in rows]))
    title = f"Scores of {len(profiles)} models on {len(tasks)} tasks"
    view = f"0 0 {number(width)} {number(height)}"
    return element("svg", element("title", title), *parts, class_="chart", viewBox=view, role="img")


def _axis(x: Scale, rows: Sequence[float], height: float) -> Markup:
    parts = [
        element("line", class_="grid", x1=x.start, x2=x.end, y1=at + _ROW / 2, y2=at + _ROW / 2) for at in rows[:-1]
    ]
    for value in ticks(x.low, x.high, 5):
        at, base = x(value), height - _BOTTOM
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=_TOP, y2=base))
        parts.append(element("text", f"{100 * value:.0f}", class_="tick middle", x=at, y=base + 16))
    label = element("text", "score, percent", class_="label middle", x=(x.start + x.end) / 2, y=height - 5)
    return element("g", *parts, label)


def _name(name: str, left: float, at: float) -> Markup:
    room = int((left - 12) / _LETTER)
    shown = name if len(name) <= room else f"{name[: max(room - 1, 1)]}…"
    return element("text", element("title", name), shown, class_="end", x=left - 10, y=at + 4)


def _line(profile: ModelLine, place: int, x: Scale, rows: Sequence[float]) -> Markup:
    known = [(score, at) for score, at in zip(profile.scores, rows, strict=True) if score.measured]
    points = [(x(score.mean), at) for score, at in known]
    whiskers = "".join(
        f"M{number(x(score.lo))} {number(at)}H{number(x(score.hi))}" for score, at in known if score.has_ends
    )
    told = ", ".join(percent(score.mean) for score, _ in known)
    return element(
        "g",
        element("title", f"{profile.name}: {told}"),
        element("path", class_="median", d=polyline(points)),
        element("path", class_="whisker thin", d=whiskers) if whiskers else "",
        element("path", class_="spots", d=dots(points)),
        class_=curve_class(place),
        data_series=str(place),
        hidden=None if profile.shown else "",
    )
