"""Trade-offs of a study: candidates and models on every objective, with intervals, and what each came from.

Candidates are known by the validation examples that the search asked, models also by the test examples; the two are
kept apart, since what was chosen on validation looks better there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

from genepool.evolution.opened_study import fitness
from genepool.evolution.study import Study
from genepool.report import ledger_tables, markdown
from genepool.report.kinds import Kind
from genepool.report.pareto import front
from genepool.report.scatter_figure import Scatter, ScatterPoint, fronts, listed_points, scatter_data
from genepool.report.sections import Section
from genepool.report.sections.search import SearchCurves
from genepool.report.study_folder import StudyFolder
from genepool.report.study_outcomes import Origin, StudyOutcomes
from genepool.report.text import plain_interval, score_text
from genepool.tasks import OutcomeTable

if TYPE_CHECKING:
    from genepool.report.page import Report

#: Candidates shown over all searches: those on a front, the finalists, the winner's ancestors, and of the others so
#: many at even distances. An interval costs some milliseconds, a point some 200 bytes.
SHOWN = 600
FITNESS, WORST = "fitness", "worst task"

Line = Mapping[str, Any]


@dataclass(frozen=True)
class TradeOffs(Section):
    """Trade-offs between objectives, one picture for each split, all with the same objectives."""

    scatters: tuple[Scatter, ...] = ()

    name = "tradeoffs"
    title = "Trade-offs"
    order = 50

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        parents, limit = ["base", *study.skills], study.study.tasks.valid
        searched = searched_trade_off(
            study.folders, study.origins, parents, study.study, lambda prints: study.table("valid", limit, prints)
        )
        tested = tested_trade_off(study.test, study.study, study.kinds, list(study.folders), parents)
        return cls(tuple(filter(None, (searched, tested))))

    def drawn(self, report: Report) -> dict[str, Any] | None:
        if not self.scatters:
            return None
        searches = [run.name for run in report[SearchCurves].searches]
        return {
            "scatters": [(scatter, listed_points(scatter)) for scatter in self.scatters],
            "picture": scatter_data(self.scatters, searches),
        }

    def markdown(self, report: Report) -> list[str]:
        lines: list[str] = []
        for scatter in self.scatters:
            one, other, found = next(fronts(scatter))
            places = (scatter.objectives.index(one), scatter.objectives.index(other))
            rows = [
                (
                    point.origin,
                    point.name,
                    "chosen" if point.won else "",
                    *(score_text(point.scores[i]) for i in places),
                )
                for point in found
            ]
            lines += [markdown.plain(f"The front of {one} and {other} on {scatter.split} examples:"), ""]
            lines += markdown.table(("search or kind", "name", "", one, other), rows, texts=3)
        return ["## Trade-offs", "", *lines] if lines else []

    def values(self) -> dict[str, Any]:
        return {
            "fronts": [
                {"examples": scatter.split, "objectives": [one, other], "points": [_point(scatter, p) for p in found]}
                for scatter in self.scatters
                for one, other, found in fronts(scatter)
            ]
        }


def objectives(tasks: Sequence[str]) -> tuple[str, ...]:
    """The names of the objectives: the study's fitness, its worst task, and each task."""
    return (FITNESS, WORST, *tasks)


def tested_trade_off(
    table: OutcomeTable, study: Study, kinds: Mapping[str, Kind], searches: Sequence[str], parents: Sequence[str]
) -> Scatter | None:
    """All tested models; None when there is nothing to choose between.

    Args:
        table: their outcomes on the test examples.
        kinds: the kind of every model.
        searches: names of the searches, whose winners are among the models.
        parents: names of the base and the specialists that every winner was made of.
    """
    if len(table.tasks) < 2 or len(table.models) < 2:
        return None
    places = {name: place for place, name in enumerate(table.models)}
    made_of = tuple(places[name] for name in parents if name in places)
    points = [
        ScatterPoint(
            name,
            name if name in searches else "",
            None if name in searches else kinds[name],
            ledger_tables.objective_intervals(table, name, study),
            made_of if name in searches else (),
            won=name in searches,
        )
        for name in table.models
    ]
    return Scatter("test", objectives(table.tasks), tuple(points))


def searched_trade_off(
    folders: Mapping[str, StudyFolder],
    origins: Sequence[Origin],
    parents: Sequence[str],
    study: Study,
    outcomes_of: Callable[[Mapping[str, str]], OutcomeTable],
) -> Scatter | None:
    """Candidates of all searches beside the models that were asked the same examples; None when no candidate is known.

    Args:
        folders: the searches by name.
        origins: the models; winners are left out, being candidates.
        parents: names of the base and the specialists that every winner was made of.
        study: whose fitness counts for all.
        outcomes_of: gives the outcomes of models (name -> fingerprint), as far as they are known.
    """
    chosen = _chosen(folders, study)
    models = {o.name: o for o in origins if o.fingerprint and o.kind not in ("winner", "random")}
    prints = {_key(search, line): line["fingerprint"] for search, line in chosen}
    table = outcomes_of({**{name: origin.fingerprint for name, origin in models.items()}, **prints})
    found = [(search, line) for search, line in chosen if _key(search, line) in table.models]
    if len(table.tasks) < 2 or not found:
        return None
    known = [name for name in models if name in table.models]
    points = [
        ScatterPoint(name, "", models[name].kind, ledger_tables.objective_intervals(table, name, study))
        for name in known
    ]
    inputs = tuple(known.index(name) for name in parents if name in known)
    places = {(search, line["id"]): place for place, (search, line) in enumerate(found, start=len(points))}
    for search, line in found:
        won = line["id"] == _winner(folders[search])
        came_from = tuple(places[search, one] for one in line["parents"] if (search, one) in places)
        points.append(
            ScatterPoint(
                f"candidate {line['index'] + 1} of generation {line['generation']}",
                search,
                None,
                ledger_tables.objective_intervals(table, _key(search, line), study),
                (*came_from, *(inputs if won else ())),
                won,
            )
        )
    total = sum(len(_evaluated(folder, table.tasks)) for folder in folders.values())
    return Scatter("validation", objectives(table.tasks), tuple(points), candidates=total)


def _chosen(folders: Mapping[str, StudyFolder], study: Study) -> list[tuple[str, Line]]:
    """The candidates to show, search by search in order of evaluation."""
    tasks = study.tasks.names
    known = [(search, line) for search, folder in folders.items() for line in _evaluated(folder, tasks)]
    if len(known) <= SHOWN:
        return known
    keep = _on_a_front([line["valid"] for _, line in known], study)
    wanted = {(search, one) for search, folder in folders.items() for one in _told_of(folder)}
    keep |= {place for place, (search, line) in enumerate(known) if (search, line["id"]) in wanted}
    others = [place for place in range(len(known)) if place not in keep]
    room = max(SHOWN - len(keep), 0)
    keep |= {others[int((i + 0.5) * len(others) / room)] for i in range(min(room, len(others)))}
    return [known[place] for place in sorted(keep)]


def _on_a_front(means: Sequence[Mapping[str, float]], study: Study) -> set[int]:
    tasks = sorted(set.intersection(*(set(valid) for valid in means)))
    columns = [[valid[task] for valid in means] for task in tasks]
    columns.append([fitness(valid, study.tasks.weights, study.objective) for valid in means])
    columns.append([min(valid[t] for t in tasks if study.tasks.weights.get(t, 1.0) > 0) for valid in means])
    return {int(place) for one, other in combinations(columns, 2) for place in front(one, other)}


def _told_of(folder: StudyFolder) -> set[str]:
    """Finalists, the winner, and the winner's ancestors as far as they are recorded."""
    by_id = {line["id"]: line for line in folder.history}
    told, ahead = {str(line["id"]) for _, line in folder.finalists}, [_winner(folder)]
    while ahead:
        one = ahead.pop()
        told.add(one)
        ahead += [parent for parent in by_id.get(one, {}).get("parents", ()) if parent not in told]
    return told


def _winner(folder: StudyFolder) -> str:
    """The id of the winner; of the best so far while the study is unfinished."""
    return str((folder.best or folder.leader or {}).get("id", ""))


def _evaluated(folder: StudyFolder, tasks: Sequence[str] | None) -> list[Line]:
    return [
        line
        for line in folder.history
        if line["fitness"] is not None
        and line.get("fingerprint")
        and line.get("valid")
        and all(task in line["valid"] for task in tasks or ())
    ]


def _key(search: str, line: Line) -> str:
    # No model can be called this: names of models hold no line feed.
    return f"{search}\n{line['id']}"


def _point(scatter: Scatter, point: ScatterPoint) -> dict[str, Any]:
    scores = dict(zip(scatter.objectives, point.scores, strict=True))
    return {
        "name": point.name,
        "search": point.search,
        "kind": point.kind,
        "won": point.won,
        "scores": {name: plain_interval("mean", score) for name, score in scores.items()},
        "parents": [scatter.points[place].name for place in point.parents],
    }
