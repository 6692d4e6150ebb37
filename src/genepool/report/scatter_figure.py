"""Trade-offs as a picture: what its script draws, as JSON, and the points worth a row of a table.

The reader chooses the two objectives, so the page's script draws the picture from the data; without it the table
stands. Uses the report's colours and fronts; the section of trade-offs uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from genepool.measure import Interval
from genepool.report.colour import CURVES, curve_class
from genepool.report.kinds import KINDS, Kind
from genepool.report.pareto import front

#: Candidates of a front that the table shows.
ROWS = 40
#: What a kind of model is drawn as; candidates and winners are discs.
_MARKS = {"base": "square", "parent": "triangle", "merge": "diamond"}


@dataclass(frozen=True)
class ScatterPoint:
    """One candidate or model on several objectives.

    Attributes:
        name: what it is called ("candidate 3 of generation 7", or the model's name).
        search: the search it comes from; empty for a model that was not searched.
        kind: of a model that was not searched; None for what was.
        scores: one per objective, larger is better.
        parents: places, among the points, of what it came from.
        won: whether it is what its search chose.
    """

    name: str
    search: str
    kind: Kind | None
    scores: tuple[Interval, ...]
    parents: tuple[int, ...] = ()
    won: bool = False

    @property
    def origin(self) -> str:
        """The search it comes from, or its kind."""
        return self.search if self.kind is None else KINDS[self.kind]


@dataclass(frozen=True)
class Scatter:
    """Candidates and models between which two objectives force a choice.

    Attributes:
        split: the examples they are known by ("validation", "test").
        objectives: names of the objectives.
        points: the candidates and models.
        candidates: how many candidates there were; more than are shown where a search was long.
    """

    split: str
    objectives: tuple[str, ...]
    points: tuple[ScatterPoint, ...]
    candidates: int = 0


def fronts(scatter: Scatter) -> Iterator[tuple[str, str, list[ScatterPoint]]]:
    """The front of every two objectives: their names, and the points on it by the first one."""
    values = np.array([[score.mean for score in point.scores] for point in scatter.points])
    for i, j in combinations(range(len(scatter.objectives)), 2):
        on_it = front(values[:, i], values[:, j])
        yield scatter.objectives[i], scatter.objectives[j], [scatter.points[place] for place in on_it]


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


def listed_points(scatter: Scatter) -> list[tuple[ScatterPoint, bool]]:
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
    labels = [point.origin for point in scatter.points]
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


def _numbers(scores: Sequence[Interval]) -> list[float | None]:
    return [round(end, 4) if math.isfinite(end) else None for score in scores for end in score]
