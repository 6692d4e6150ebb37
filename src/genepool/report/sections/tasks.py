"""The scores of the matrix side by side: a row for each task, a line for each model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from genepool.measure import NOT_MEASURED
from genepool.report import colour
from genepool.report.parallel_figure import ModelLine, parallel_figure
from genepool.report.sections import Section
from genepool.report.sections.scores import Scores
from genepool.report.sections.standings import Standings
from genepool.report.templates import NARROW, WIDE

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes

#: Models drawn in parallel; a legend of more is no legend.
PROFILES = 40


@dataclass(frozen=True)
class Tasks(Section):
    """A picture of what `Scores` has; the page's Markdown and JSON have those numbers once."""

    name = "tasks"
    title = "Tasks"
    order = 30

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        return cls()

    def drawn(self, report: Report) -> dict[str, Any] | None:
        profiles = model_profiles(report)
        names = [task.name for task in report[Scores].tasks]
        charts = [parallel_figure(names, profiles, width=size["width"]) for size in (WIDE, NARROW)]
        return {"profiles": profiles, "charts": charts} if charts[0] else None


def model_profiles(report: Report) -> list[ModelLine]:
    """The models' scores over the tasks, the subject and what it is held against first, which are shown at once.

    Of very many models the first PROFILES are drawn; the matrix has all of them.
    """
    scores = report[Scores]
    if len(scores.tasks) < 2:
        return []
    rivals = [rival.name for standing in report[Standings].standings for rival in standing.rivals]
    bases = [model.name for model in scores.models if model.kind == "base"]
    first = list(dict.fromkeys([report.subject, *rivals, *bases]))
    ordered = sorted(scores.models, key=lambda m: first.index(m.name) if m.name in first else len(first))
    own = [tuple(m.scores.get(task.name) or NOT_MEASURED for task in scores.tasks) for m in ordered]
    return [
        ModelLine(model.name, found, model.name in first or (not report.subject and place < len(colour.CURVES)))
        for place, (model, found) in enumerate(zip(ordered[:PROFILES], own, strict=False))
        if any(one.measured for one in found)
    ]
