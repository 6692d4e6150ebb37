"""Small pictures that sit in table cells: an interval on a scale, a diverging bar, a number within its range.

They carry no text and stretch with their cell (strokes keep their width), so a table stays readable on a phone; the
numbers stand beside them. Uses the report's svg room; the page uses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup

from genepool.measure import Interval
from genepool.report.recipe_figure import GeneValue
from genepool.report.svg import Scale, element, number, ticks

_WIDTH = 1000.0
_REACHES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def reach(deltas: Iterable[Interval]) -> float:
    """How far a shared axis of differences must go to either side, a round number up to 1."""
    ends = [abs(end) for delta in deltas for end in delta if math.isfinite(end)]
    widest = max(ends, default=0.0)
    return next((limit for limit in _REACHES if widest <= limit), max(1.0, widest))


def diverging_bar(delta: Interval, limit: float, *, height: float = 22) -> Markup:
    """A bar from zero to the difference, over an axis from -limit to limit, with its interval as a whisker."""
    x = Scale(-limit, limit, 0, _WIDTH)
    parts = [_rule(x(tick), 0, height, "grid") for tick in ticks(-limit, limit, 4) if tick]
    if delta.measured:
        ends = sorted((x(0), x(delta.mean)))
        side = "loss" if delta.mean < 0 else "gain"
        parts.append(element("rect", class_=side, x=ends[0], width=ends[1] - ends[0], y=height / 2 - 6, height=12))
        parts += _whisker(delta, x, height / 2)
    parts.append(_rule(x(0), 0, height, "zero"))
    return _stretching(parts, height)


def tilt(delta: Interval, limit: float, steps: int = 5) -> str:
    """The class of a coloured cell: "up3", "down1", or "level" where the interval does not leave zero out.

    Args:
        delta: the difference.
        limit: the difference that takes the strongest of `steps` colours.
    """
    sure = delta.has_ends and (delta.lo > 0 or delta.hi < 0)
    if not delta.measured or not sure:
        return "level"
    step = min(max(math.ceil(steps * abs(delta.mean) / limit), 1), steps) if limit > 0 else 1
    return f"{'down' if delta.mean < 0 else 'up'}{step}"


def interval_mark(
    score: Interval, low: float, high: float, *, subject: bool, height: float = 20, limit: float | None = None
) -> Markup:
    """A score as a dot with its interval on a scale from `low` to `high`, beside a limit if there is one."""
    x = Scale(low, high, 0, _WIDTH)
    parts = [_rule(x(tick), 0, height, "grid") for tick in ticks(low, high, 4)]
    if limit is not None:
        parts.append(_rule(x(limit), 0, height, "limit"))
    if score.measured:
        parts += _whisker(score, x, height / 2)
        at = f"M{number(x(score.mean))} {number(height / 2)}h0"
        parts.append(element("path", class_="spot subject" if subject else "spot", d=at))
    return _stretching(parts, height)


def gene_bar(gene: GeneValue, *, height: float = 14) -> Markup:
    """A number within the range it was searched in: the better candidates' spread as a line, the value as a mark."""
    x = Scale(gene.low, gene.high, 12, _WIDTH - 12)
    middle = height / 2
    parts = [element("path", class_="track", d=f"M{number(x.start)} {number(middle)}H{number(x.end)}")]
    if gene.low < 0 < gene.high:
        parts.append(_rule(x(0), middle - 4, middle + 4, "zero"))
    if gene.spread is not None:
        low, high = (x(min(max(end, gene.low), gene.high)) for end in gene.spread)
        parts.append(element("path", class_="spread", d=f"M{number(low)} {number(middle)}H{number(high)}"))
    value = x(min(max(gene.value, gene.low), gene.high))
    parts.append(_rule(value, 0, height, "value"))
    return _stretching(parts, height)


def common_range(scores: Iterable[Interval]) -> tuple[float, float]:
    """Round ends of a scale that holds every score and interval."""
    ends = [end for score in scores for end in score if math.isfinite(end)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    size = 0.1 if high - low > 0.1 else 0.02
    return math.floor(low / size + 1e-9) * size, math.ceil(high / size - 1e-9) * size


def _whisker(score: Interval, x: Scale, middle: float) -> list[Markup]:
    if not score.has_ends:
        return []
    low, high = x(score.lo), x(score.hi)
    line = element("path", class_="whisker", d=f"M{number(low)} {number(middle)}H{number(high)}")
    return [line, _rule(low, middle - 4, middle + 4, "whisker"), _rule(high, middle - 4, middle + 4, "whisker")]


def _rule(at: float, top: float, bottom: float, class_: str) -> Markup:
    return element("path", class_=class_, d=f"M{number(at)} {number(top)}V{number(bottom)}")


def _stretching(parts: list[Markup], height: float) -> Markup:
    return element(
        "svg",
        *parts,
        class_="cell",
        viewBox=f"0 0 {number(_WIDTH)} {number(height)}",
        height=height,
        preserveAspectRatio="none",
        aria_hidden="true",
    )
