"""Where the subject stands on each group of tasks, beside the models it is held against: the numbers at the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from genepool.measure import Interval
from genepool.report import bars, markdown
from genepool.report.outcomes import ahead, members, score
from genepool.report.sections import Section
from genepool.report.text import interval, percent, plain_interval, points, points_interval, verdict
from genepool.tasks import OutcomeTable

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes


@dataclass(frozen=True)
class Rival:
    """Another model beside the subject on one group of tasks.

    Attributes:
        role: why it is shown ("best specialist").
        name: its name in the matrix.
        score: its own mean.
        ahead: subject minus rival on the same examples, with a paired interval.
    """

    role: str
    name: str
    score: Interval
    ahead: Interval


@dataclass(frozen=True)
class Standing:
    """Where the subject stands on one group of tasks."""

    group: str
    score: Interval
    rivals: tuple[Rival, ...] = ()


@dataclass(frozen=True)
class Standings(Section):
    """The standings, and a sentence below them: how the rivals were chosen."""

    standings: tuple[Standing, ...] = ()
    note: str = ""

    name = "standings"
    order = 10

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        found = standings(study.test, study.subject, _roles(study), study.groups) if study.tested else ()
        chosen = "The best specialist is the one with the highest test score of that group."
        return cls(found, f"{chosen}{study.how_chosen}")

    def drawn(self, report: Report) -> dict[str, Any] | None:
        ranges = [(one, bars.common_range([one.score, *(r.score for r in one.rivals)])) for one in self.standings]
        return {"standings": ranges} if ranges else None

    def markdown(self, report: Report) -> list[str]:
        rows: list[tuple[str, ...]] = []
        for one in self.standings:
            rows.append((one.group, report.subject, "", percent(one.score.mean), interval(one.score), "", ""))
            rows += [
                (
                    one.group,
                    rival.name,
                    rival.role,
                    percent(rival.score.mean),
                    interval(rival.score),
                    f"{points(rival.ahead.mean)} ({points_interval(rival.ahead)})",
                    verdict(rival.ahead),
                )
                for rival in one.rivals
            ]
        heads = ("group", "model", "", "score", "95%", f"{report.subject}, points ahead", "")
        note = [markdown.plain(self.note), ""] if self.note else []
        return [*markdown.table(heads, rows, texts=3), *note] if rows else []

    def values(self) -> dict[str, Any]:
        return {
            "standings": [
                {
                    "group": one.group,
                    **plain_interval("mean", one.score),
                    "against": [
                        {"role": rival.role, "model": rival.name, **plain_interval("difference", rival.ahead)}
                        for rival in one.rivals
                    ],
                }
                for one in self.standings
            ]
        }


def standings(
    table: OutcomeTable, subject: str, rivals: Sequence[tuple[str, Sequence[str]]], groups: Mapping[str, str]
) -> tuple[Standing, ...]:
    """Where the subject stands on every group.

    Args:
        table: the outcomes.
        subject: the model.
        rivals: (role, models): of several models the one with the highest mean on the group stands for the role.
        groups: the group of every task.
    """
    found = []
    for group, tasks in members(table, groups).items():
        against = []
        for role, models in rivals:
            if models:
                best = max(models, key=lambda model: float(np.mean([table.mean(model, task) for task in tasks])))
                against.append(Rival(role, best, score(table, best, tasks), ahead(table, subject, best, tasks)))
        found.append(Standing(group, score(table, subject, tasks), tuple(against)))
    return tuple(found)


def _roles(study: StudyOutcomes) -> list[tuple[str, list[str]]]:
    have = set(study.test.models)
    parents = [name for name, kind in study.kinds.items() if kind == "parent" and name in have]
    roles = [("best specialist", parents)]
    if study.best_merge in have:
        roles.append(("best static merge", [study.best_merge]))
    roles += [
        ("equal budget" if study.same_budget(name) else "another search", [name])
        for name in study.folders
        if name != study.subject and name in have
    ]
    return roles
