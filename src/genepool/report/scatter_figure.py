"""Trade-offs as a picture: what its script draws, as JSON, and the points worth a row of a table.

The reader chooses the two objectives, so the page's script draws the picture from the data; without it the table
stands. Uses the report's data and colour rooms; the page uses it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from genepool.report.colour import CURVES, curve_class
from genepool.report.data import KINDS, Estimate, Scatter, ScatterPoint
from genepool.report.trade_offs import fronts

#: Candidates of a front that the table shows.
ROWS = 40
#: What a kind of model is drawn as; candidates and winners are discs.
_MARKS = {"base": "square", "parent": "triangle", "merge": "diamond"}


def scatter_data(scatters: Sequence[Scatter], searches: Sequence[str]) -> str:
    """All of it as JSON.

    Args:
        scatters: one per split; all have the same objectives.
        searches: names of the searches in the order of the search curves, whose colours theirs are.

    Returns:
        `objectives`; and `splits`, each with its `name`, `series` of [label, class, mark] and `points` of [name,
        series, won, scores, parents], where scores are value, low and high of one objective after the other.
    """
    told = {"objectives": scatters[0].objectives, "splits": [_split(scatter, searches) for scatter in scatters]}
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False)


def told_points(scatter: Scatter) -> list[tuple[ScatterPoint, bool]]:
    """The models, the winners and the front of the first two objectives, each with whether it is on that front.

    Where many candidates are equal a front is long; then its candidates are shown at even distances.
    """
    _, _, front = next(iter(fronts(scatter)))
    on_it = {id(point) for point in front}
    some = {id(front[int((i + 0.5) * len(front) / ROWS)]) for i in range(ROWS)} if len(front) > ROWS else on_it
    return [
        (point, id(point) in on_it)
        for point in scatter.points
        if id(point) in some or point.won or point.kind is not None
    ]


def _split(scatter: Scatter, searches: Sequence[str]) -> dict[str, object]:
    labels = [_label(point) for point in scatter.points]
    order = [*searches, *KINDS.values()]
    present = sorted(dict.fromkeys(labels), key=lambda label: order.index(label) if label in order else len(order))
    kinds = {label: point.kind for label, point in zip(labels, scatter.points, strict=True)}
    series = []
    for label in present:
        kind = kinds[label]
        if kind is None:
            place = searches.index(label) if label in searches else len(searches)
            series.append((label, curve_class(place), "disc"))
        else:
            colour = len(CURVES) - 1 if kind == "base" else len(searches) + (kind == "merge")
            series.append((label, curve_class(colour % len(CURVES)), _MARKS.get(kind, "square")))
    points = [
        (point.name, present.index(label), int(point.won), _numbers(point.scores), point.parents)
        for label, point in zip(labels, scatter.points, strict=True)
    ]
    return {"name": scatter.split, "series": series, "points": points}


def _label(point: ScatterPoint) -> str:
    return point.search if point.kind is None else KINDS[point.kind]


def _numbers(scores: Sequence[Estimate]) -> list[float | None]:
    ends = [end for score in scores for end in (score.value, score.low, score.high)]
    return [None if end is None else round(end, 4) for end in ends]
