"""The searches: fitness of every candidate by evaluation, levels to hold it against, and the best judged again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from genepool.measure import Interval
from genepool.report import ledger_tables, markdown
from genepool.report.search_figure import (
    Evaluation,
    FinalistPoint,
    ReferenceLine,
    SearchRun,
    curve,
    milestones,
    search_figure,
    series,
)
from genepool.report.sections import Section
from genepool.report.study_folder import StudyFolder
from genepool.report.study_outcomes import StudyOutcomes
from genepool.report.templates import NARROW, WIDE
from genepool.report.text import percent, plain_interval, score_text

if TYPE_CHECKING:
    from genepool.report.page import Report


@dataclass(frozen=True)
class SearchCurves(Section):
    """Search curves, and levels drawn across them."""

    searches: tuple[SearchRun, ...] = ()
    references: tuple[ReferenceLine, ...] = ()

    name = "search"
    title = "Search"
    order = 70

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        runs = tuple(
            SearchRun(name, _evaluations(folder), study.fitness(name), _finalists(study, folder))
            for name, folder in study.folders.items()
        )
        level = study.fitness(study.best_merge)
        references = () if level is None else (ReferenceLine("best static merge", level, study.best_merge),)
        return cls(runs, references)

    def drawn(self, report: Report) -> dict[str, Any] | None:
        curves = [curve(run) for run in self.searches if run.evaluations]
        if not curves:
            return None
        return {
            "curves": [(one, milestones(one)) for one in curves],
            "charts": [search_figure(curves, self.references, **size) for size in (WIDE, NARROW)],
            "series": series(curves),
        }

    def markdown(self, report: Report) -> list[str]:
        rows = [
            (run.name, finalist.name, percent(finalist.searched), score_text(finalist.judged), "" if place else "won")
            for run in self.searches
            for place, finalist in enumerate(run.finalists)
        ]
        heads = ("search", "candidate", "in the search", "on every validation example", "")
        return ["## Finalists", "", *markdown.table(heads, rows, texts=2)] if rows else []

    def values(self) -> dict[str, Any]:
        return {
            "searches": [
                {
                    "name": run.name,
                    "evaluations": len(run.evaluations),
                    "best": None if run.best is None else plain_interval("fitness", run.best),
                    "finalists": [
                        {"name": one.name, "searched": one.searched, **plain_interval("fitness", one.judged)}
                        for one in run.finalists
                    ],
                }
                for run in self.searches
            ]
        }


def _evaluations(folder: StudyFolder) -> tuple[Evaluation, ...]:
    return tuple(Evaluation(line["fitness"], line["generation"]) for line in folder.history)


def _finalists(study: StudyOutcomes, folder: StudyFolder) -> tuple[FinalistPoint, ...]:
    told = folder.finalists
    prints = {name: line["fingerprint"] for name, line in told if line["fingerprint"]}
    whole = study.table("valid", None, prints)
    return tuple(
        FinalistPoint(
            name,
            line["searched"],
            ledger_tables.fitness_interval(whole, name, study.study)
            if name in whole.models
            else Interval(line["fitness"]),
        )
        for name, line in told
    )
