"""The search curve: every candidate's validation fitness, the best so far, and the spread of each generation.

Draws one run or several over the same axis of evaluations, with reference levels behind them, and gives the same
numbers as a table. Uses the report's svg, colour and text rooms; the page uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from genepool.measure import Interval
from genepool.report.colour import curve_class
from genepool.report.svg import Scale, dots, element, joined, number, polyline, ticks
from genepool.report.text import percent

#: A generation smaller than this has no quantiles worth drawing; neighbours are pooled until they reach it.
POOL = 5
#: Dots drawn per run; beyond it an even sample, so that a long search stays a small page.
DOTS = 2000


@dataclass(frozen=True)
class Evaluation:
    """One candidate of a search, in the order of evaluation; fitness is None when it failed."""

    fitness: float | None
    generation: int = 0


@dataclass(frozen=True)
class FinalistPoint:
    """One of the best of a search, judged again on more examples than the search used.

    Attributes:
        name: which candidate it is ("candidate 3 of generation 7").
        searched: the fitness the search saw; None for a strategy's own guess, which it never evaluated.
        judged: the fitness it was chosen by in the end.
    """

    name: str
    searched: float | None
    judged: Interval


@dataclass(frozen=True)
class SearchRun:
    """One search.

    Attributes:
        name: what the page calls it.
        evaluations: its candidates.
        best: the best candidate's validation fitness as the search saw it, with its interval; None when unknown.
        finalists: those judged again, the winner first.
    """

    name: str
    evaluations: tuple[Evaluation, ...]
    best: Interval | None = None
    finalists: tuple[FinalistPoint, ...] = ()


@dataclass(frozen=True)
class ReferenceLine:
    """A level drawn across the search curves: the validation score of something that was not searched.

    `name` stands beside the line; `model` says in the legend which model it is.
    """

    name: str
    score: Interval
    model: str = ""


@dataclass(frozen=True)
class Band:
    """The spread of one generation (or several small ones pooled): its middle, 10%, 50% and 90% quantiles."""

    at: float
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One run, ready to draw: dots (evaluation, fitness), best so far by evaluation, and bands."""

    run: SearchRun
    points: tuple[tuple[int, float, int], ...]
    best: tuple[tuple[int, float], ...]
    bands: tuple[Band, ...]

    @property
    def length(self) -> int:
        """Evaluations, failed ones included."""
        return len(self.run.evaluations)


def curve(run: SearchRun) -> Curve:
    """The run's points as (evaluation from 1, fitness, generation), steps of its best, and bands."""
    points = tuple(
        (i, evaluation.fitness, evaluation.generation)
        for i, evaluation in enumerate(run.evaluations, start=1)
        if evaluation.fitness is not None
    )
    best: list[tuple[int, float]] = []
    for i, fitness, _ in points:
        if not best or fitness > best[-1][1]:
            best.append((i, fitness))
    return Curve(run, points, tuple(best), tuple(_bands(points)))


def _bands(points: Sequence[tuple[int, float, int]]) -> list[Band]:
    pools: list[list[tuple[int, float, int]]] = []
    for _, generation in groupby(points, key=lambda point: point[2]):
        if pools and len(pools[-1]) < POOL:
            pools[-1].extend(generation)
        else:
            pools.append(list(generation))
    if len(pools) > 1 and len(pools[-1]) < POOL:
        pools[-2].extend(pools.pop())
    bands = []
    for pool in pools:
        values = sorted(fitness for _, fitness, _ in pool)
        middle = (pool[0][0] + pool[-1][0]) / 2
        bands.append(Band(middle, *(_quantile(values, q) for q in (0.1, 0.5, 0.9))))
    return bands


def _quantile(ordered: Sequence[float], q: float) -> float:
    at = q * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def search_figure(
    curves: Sequence[Curve], references: Sequence[ReferenceLine], *, width: float, height: float
) -> Markup:
    """The picture, in a view box of `width` x `height` pixels; empty when no candidate has a fitness."""
    levels = [reference for reference in references if reference.score.measured]
    values = [fitness for c in curves for _, fitness, _ in c.points]
    if not values:
        return Markup("")
    values += [value for r in levels for value in r.score if math.isfinite(value)]
    values += [value for c in curves if c.run.best for value in c.run.best[1:] if math.isfinite(value)]
    low, high = min(values), max(values)
    pad = 0.04 * (high - low) or 0.02
    longest = max(c.length for c in curves)
    left, right, top, bottom = 44.0, 58.0, 12.0, 40.0
    x = Scale(0, longest, left, width - right)
    y = Scale(low - pad, min(high + pad, max(1.0, high)), height - bottom, top)
    parts = [_axes(x, y, width, height)]
    parts += [_reference(reference, x, y) for reference in levels]
    parts += [_band(c, i, x, y) for i, c in enumerate(curves)]
    parts += [_dots(c, i, x, y) for i, c in enumerate(curves)]
    parts += [_best(c, i, x, y) for i, c in enumerate(curves)]
    parts += _ends(curves, x, y, top)
    parts.append(element("g", element("line", class_="cursor", y1=top, y2=height - bottom), class_="marker"))
    return element(
        "svg",
        element("title", _spoken(curves)),
        *parts,
        class_="chart",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        data_points=json.dumps(_tooltip_points(curves, x, y), separators=(",", ":")),
        data_runs=json.dumps([c.run.name for c in curves]),
    )


def series(curves: Sequence[Curve]) -> str:
    """Every candidate, failed ones included, as JSON: a list of [run, generations, fitness] in order of evaluation."""
    rows = [
        [
            c.run.name,
            [evaluation.generation for evaluation in c.run.evaluations],
            [None if e.fitness is None else round(e.fitness, 6) for e in c.run.evaluations],
        ]
        for c in curves
    ]
    return json.dumps(rows, separators=(",", ":"))


def milestones(c: Curve, rows: int = 10) -> list[tuple[int, float | None, Band | None]]:
    """The same run as a table: evaluation, best so far, and the latest finished band, at even distances."""
    lines: list[tuple[int, float | None, Band | None]] = []
    for i in range(1, rows + 1):
        at = round(i * c.length / rows)
        if at and (not lines or at != lines[-1][0]):
            best = max((fitness for when, fitness in c.best if when <= at), default=None)
            bands = [band for band in c.bands if band.at <= at]
            lines.append((at, best, bands[-1] if bands else None))
    return lines


def _axes(x: Scale, y: Scale, width: float, height: float) -> Markup:
    parts: list[Markup] = []
    for value in ticks(y.low, y.high, 5):
        at = y(value)
        parts.append(element("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        label = f"{100 * value:.0f}" if y.high - y.low > 0.04 else percent(value)
        parts.append(element("text", label, class_="tick end", x=x.start - 8, y=at + 4))
    base = y.start
    parts.append(element("line", class_="axis", x1=x.start, x2=x.end, y1=base, y2=base))
    for value in ticks(0, x.high, 5 if width < 500 else 8):
        if value == int(value):
            at = x(value)
            parts.append(element("line", class_="axis", x1=at, x2=at, y1=base, y2=base + 4))
            parts.append(element("text", f"{int(value):,}", class_="tick middle", x=at, y=base + 18))
    parts.append(element("text", "evaluations", class_="label middle", x=(x.start + x.end) / 2, y=height - 5))
    return element("g", *parts)


def _reference(reference: ReferenceLine, x: Scale, y: Scale) -> Markup:
    score = reference.score
    if not score.measured:
        return Markup("")
    at = y(score.mean)
    parts = []
    if score.has_ends:
        top, bottom = y(score.hi), y(score.lo)
        parts.append(element("rect", class_="level-band", x=x.start, width=x.end - x.start, y=top, height=bottom - top))
    parts.append(element("line", class_="level", x1=x.start, x2=x.end, y1=at, y2=at))
    parts.append(element("text", reference.name, class_="level-name halo", x=x.start + 6, y=at - 5))
    return element("g", *parts)


def _band(c: Curve, i: int, x: Scale, y: Scale) -> Markup:
    if not c.bands:
        return Markup("")
    if len(c.bands) == 1:
        # One generation has no extent of its own; it spans what it was computed from.
        only = c.bands[0]
        spans = [(1.0, only), (float(c.length), only)]
    else:
        spans = [(band.at, band) for band in c.bands]
    upper = [(x(at), y(band.high)) for at, band in spans]
    lower = [(x(at), y(band.low)) for at, band in reversed(spans)]
    middle = [(x(at), y(band.middle)) for at, band in spans]
    return element(
        "g",
        element("path", class_="band", d=polyline(upper + lower, closed=True)),
        element("path", class_="median", d=polyline(middle)),
        class_=curve_class(i),
        data_series=str(i),
    )


def _dots(c: Curve, i: int, x: Scale, y: Scale) -> Markup:
    shown = _sampled(c)
    places = dots((x(at), y(fitness)) for at, fitness, _ in shown)
    return element("path", class_=f"dots {curve_class(i)}", d=places, data_series=str(i))


def _sampled(c: Curve) -> list[tuple[int, float, int]]:
    stride = -(-len(c.points) // DOTS)
    records = {at for at, _ in c.best}
    return [point for k, point in enumerate(c.points) if k % max(stride, 1) == 0 or point[0] in records]


def _best(c: Curve, i: int, x: Scale, y: Scale) -> Markup:
    if not c.best:
        return Markup("")
    path = [(x(c.best[0][0]), y(c.best[0][1]))]
    for at, fitness in c.best[1:]:
        path += [(x(at), path[-1][1]), (x(at), y(fitness))]
    path.append((x(c.length), path[-1][1]))
    return element("path", class_=f"best {curve_class(i)}", d=polyline(path), data_series=str(i))


def _ends(curves: Sequence[Curve], x: Scale, y: Scale, top: float) -> list[Markup]:
    """The best value behind each curve's end, pushed apart where they would overlap, and its interval."""
    ends = sorted(((y(c.best[-1][1]), i) for i, c in enumerate(curves) if c.best))
    parts = []
    floor = top
    for order, (at, i) in enumerate(ends):
        label = max(at, floor)
        floor = label + 15
        best, estimate = curves[i].best[-1][1], curves[i].run.best
        inside = [element("text", percent(best), class_="end-label", x=x.end + 16 + 6 * (len(ends) > 2), y=label + 4)]
        if estimate is not None and estimate.has_ends:
            inside.append(_whisker(x.end + 5 + 5 * order, estimate, y))
        parts.append(element("g", *inside, class_=curve_class(i), data_series=str(i)))
    return parts


def _whisker(at: float, estimate: Interval, y: Scale) -> Markup:
    low, high = y(estimate.lo), y(estimate.hi)
    return element("path", class_="whisker", d=f"M{number(at)} {number(low)}V{number(high)}")


def _tooltip_points(curves: Sequence[Curve], x: Scale, y: Scale) -> list[list[float]]:
    rows = []
    for i, c in enumerate(curves):
        best = dict(c.best)
        so_far = 0.0
        shown = {at for at, _, _ in _sampled(c)}
        for at, fitness, generation in c.points:
            so_far = best.get(at, so_far)
            if at in shown:
                place = [round(x(at), 1), round(y(fitness), 1)]
                rows.append([*place, i, at, generation, round(fitness, 4), round(so_far, 4)])
    return sorted(rows, key=lambda row: (row[0], row[2]))


def _spoken(curves: Sequence[Curve]) -> str:
    told = [f"{c.run.name}: best {percent(c.best[-1][1])} after {c.length} evaluations" for c in curves if c.best]
    return str(joined(["Validation fitness over evaluations. ", "; ".join(told), "."]).unescape())
