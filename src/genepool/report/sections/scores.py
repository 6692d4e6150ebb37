"""Every model on every task: the matrix of scores with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

from genepool.measure import NOT_MEASURED, Interval
from genepool.report import markdown
from genepool.report.kinds import KIND_OF_ONE, KINDS, Kind
from genepool.report.outcomes import group_means, score
from genepool.report.sections import Section
from genepool.report.text import plain_interval, score_text
from genepool.tasks import OutcomeTable

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes


@dataclass(frozen=True)
class ScoredTask:
    """One column of the matrix: a task, and the group whose mean it enters ("skills", "generic")."""

    name: str
    group: str = "skills"
    n: int = 0


@dataclass(frozen=True)
class ModelRow:
    """One row of the matrix.

    Attributes:
        name: what the page calls the model.
        kind: which group of rows it belongs to.
        scores: by task name; a task that is missing shows as a dash.
        means: by group name, the mean over that group's tasks.
        note: a short remark behind the name ("chosen on validation").
    """

    name: str
    kind: Kind
    scores: Mapping[str, Interval]
    means: Mapping[str, Interval] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the matrix: one task, or the mean of a group when `name` is empty."""

    group: str
    name: str
    n: int

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean over its group."""
        return not self.name

    def of(self, model: ModelRow) -> Interval:
        """The model's number in this column."""
        return (model.means.get(self.group) if self.is_mean else model.scores.get(self.name)) or NOT_MEASURED


@dataclass(frozen=True)
class Scores(Section):
    """Columns and rows of the cross matrix."""

    tasks: tuple[ScoredTask, ...] = ()
    models: tuple[ModelRow, ...] = ()

    name = "scores"
    title = "Scores"
    order = 20

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of tasks, in order of first appearance."""
        return tuple(dict.fromkeys(task.group for task in self.tasks))

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        return cls(_tasks(study), tuple(_rows(study)))

    def drawn(self, report: Report) -> dict[str, Any] | None:
        if not self.models:
            return None
        columns = _columns(self.tasks, self.models)
        return {
            "columns": columns,
            "column_groups": [(name, len(list(run))) for name, run in groupby(column.group for column in columns)],
            "row_groups": _row_groups(self.models),
            "leaders": _leaders(columns, self.models),
        }

    def markdown(self, report: Report) -> list[str]:
        if not self.models:
            return []
        names = [task.name for task in self.tasks]
        rows = [
            (model.name, KIND_OF_ONE[model.kind], *(score_text(model.scores.get(name)) for name in names))
            for model in self.models
        ]
        return ["## Scores", "", *markdown.table(("model", "kind", *names), rows, texts=2)]

    def values(self) -> dict[str, Any]:
        asked = {task.name: task.n for task in self.tasks}
        scores = [
            {
                "model": model.name,
                "kind": model.kind,
                "task": name,
                "n": asked.get(name, 0),
                **plain_interval("mean", found),
            }
            for model in self.models
            for name, found in model.scores.items()
            if found.measured
        ]
        return {"models": [model.name for model in self.models], "scores": scores}


def tasks(table: OutcomeTable, groups: Mapping[str, str]) -> tuple[ScoredTask, ...]:
    """The columns: every task with its group and number of examples, groups together."""
    found = [ScoredTask(task, groups[task], len(table.examples(task))) for task in table.tasks]
    order = list(dict.fromkeys(task.group for task in found))
    return tuple(sorted(found, key=lambda task: order.index(task.group)))


def model_row(table: OutcomeTable, model: str, kind: Kind, groups: Mapping[str, str], *, note: str = "") -> ModelRow:
    """One model's scores and group means with 95% intervals."""
    scores = {task: score(table, model, [task]) for task in table.tasks}
    return ModelRow(model, kind, scores, group_means(table, model, groups), note)


def _tasks(study: StudyOutcomes) -> tuple[ScoredTask, ...]:
    if study.test.models:
        return tasks(study.test, study.groups)
    found = [ScoredTask(name, study.groups[name], n) for name, n in study.folder.examples("winner").items()]
    return tuple(sorted(found, key=lambda task: list(study.groups.values()).index(task.group)))


def _rows(study: StudyOutcomes) -> list[ModelRow]:
    rows = []
    for name, kind in study.kinds.items():
        # Where the ledger is gone the study's own record still tells the means, though no differences.
        told = study.folders[name].tested("winner") if name in study.folders else {}
        told = told or study.folder.tested(name)
        if name in study.test.models:
            note = "the best static merge" if name == study.best_merge and len(study.extras) > 1 else ""
            rows.append(model_row(study.test, name, kind, study.groups, note=note))
        elif told:
            rows.append(ModelRow(name, kind, told))
        elif name in study.extras:
            rows.append(ModelRow(name, kind, {}, note="no test outcomes in the ledger"))
    return rows


def _columns(tasks: Sequence[ScoredTask], models: Sequence[ModelRow]) -> list[Column]:
    """The tasks group by group, each group with more than one followed by its mean, where one is known."""
    columns: list[Column] = []
    for group in dict.fromkeys(task.group for task in tasks):
        members = [task for task in tasks if task.group == group]
        columns += [Column(group, task.name, task.n) for task in members]
        if len(members) > 1 and any(group in model.means for model in models):
            columns.append(Column(group, "", sum(task.n for task in members)))
    return columns


def _row_groups(models: Sequence[ModelRow]) -> list[tuple[Kind, list[ModelRow]]]:
    """The models by kind, in the page's order, empty kinds left out."""
    grouped = [(kind, [model for model in models if model.kind == kind]) for kind in KINDS]
    return [(kind, rows) for kind, rows in grouped if rows]


def _leaders(columns: Sequence[Column], models: Sequence[ModelRow]) -> dict[tuple[str, str], float]:
    """The highest value of every column, by (group, name); columns in which all are equal are left out."""
    best = {}
    for column in columns:
        values = [found.mean for model in models if (found := column.of(model)).measured]
        if len(set(values)) > 1:
            best[column.group, column.name] = max(values)
    return best
