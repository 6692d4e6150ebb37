"""What the subject gains and loses against each model it is held against, and some of the examples that flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from genepool import measure
from genepool.measure import Interval
from genepool.report import bars, markdown
from genepool.report.flips import FLIPS_SHOWN, ShownFlip, flips_of_change, spread_out
from genepool.report.kinds import Kind
from genepool.report.sections import Section
from genepool.report.sections.scores import Scores, tasks
from genepool.report.text import count, plain_interval, points, points_interval
from genepool.tasks import OutcomeTable

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes

#: Flipped examples of one task and direction against one model, at most.
FLIPS_EACH = 4


@dataclass(frozen=True)
class TaskChange:
    """What the subject gained or lost on one task against one rival.

    Attributes:
        task, group: as in the matrix.
        delta: subject minus rival, paired over examples.
        gained: examples the rival failed and the subject solves.
        lost: examples the rival solves and the subject fails.
        n: number of examples.
    """

    task: str
    group: str
    delta: Interval
    gained: int
    lost: int
    n: int = 0


@dataclass(frozen=True)
class RivalComparison:
    """The subject against one rival, task by task, with some of the examples that flipped."""

    subject: str
    rival: str
    kind: Kind
    changes: tuple[TaskChange, ...]
    flips: tuple[ShownFlip, ...] = ()


@dataclass(frozen=True)
class Changes(Section):
    """Gains and losses against each rival."""

    comparisons: tuple[RivalComparison, ...] = ()

    name = "changes"
    title = "Gains and losses"
    order = 40

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        if not study.tested:
            return None
        rivals = [name for name in (*study.skills, study.best_merge, *study.folders, "base") if name != study.subject]
        rivals = [name for name in rivals if name in study.test.models]
        return cls(comparisons(study.test, study.subject, rivals, study.kinds, study.groups))

    def drawn(self, report: Report) -> dict[str, Any] | None:
        if not self.comparisons:
            return None
        return {
            "comparisons": [_panel(comparison) for comparison in self.comparisons],
            "widest": bars.reach(change.delta for comparison in self.comparisons for change in comparison.changes),
            "groups": report[Scores].groups,
        }

    def markdown(self, report: Report) -> list[str]:
        rows = [
            (
                comparison.rival,
                change.task,
                points(change.delta.mean),
                points_interval(change.delta),
                count(change.gained),
                count(change.lost),
            )
            for comparison in self.comparisons
            for change in comparison.changes
        ]
        heads = ("against", "task", "points", "95%", "gained", "lost")
        return ["## Gains and losses", "", *markdown.table(heads, rows, texts=2)] if self.comparisons else []

    def values(self) -> dict[str, Any]:
        return {
            "changes": [
                {
                    "against": comparison.rival,
                    "task": change.task,
                    "n": change.n,
                    **plain_interval("difference", change.delta),
                    "gained": change.gained,
                    "lost": change.lost,
                }
                for comparison in self.comparisons
                for change in comparison.changes
            ]
        }


def comparisons(
    table: OutcomeTable,
    subject: str,
    rivals: Sequence[str],
    kinds: Mapping[str, Kind],
    groups: Mapping[str, str],
) -> tuple[RivalComparison, ...]:
    """The subject against each rival, with a share of the page's flipped examples each."""
    rivals = list(dict.fromkeys(rivals))
    cells = max(2 * len(rivals) * len(table.tasks), 1)
    each = min(max(FLIPS_SHOWN // cells, 1), FLIPS_EACH)
    share = FLIPS_SHOWN // max(len(rivals), 1)
    return tuple(_comparison(table, subject, rival, kinds[rival], groups, each, share) for rival in rivals)


def _comparison(
    table: OutcomeTable, subject: str, rival: str, kind: Kind, groups: Mapping[str, str], each: int, share: int
) -> RivalComparison:
    rows, flips = [], []
    for task in tasks(table, groups):
        found = measure.change(table, rival, subject, task.name)
        gained, lost = len(found.gained), len(found.lost)
        rows.append(TaskChange(task.name, task.group, found.difference.interval, gained, lost, task.n))
        flips += flips_of_change(found, each)
    return RivalComparison(subject, rival, kind, tuple(rows), tuple(spread_out(flips, share)))


def _panel(comparison: RivalComparison) -> dict[str, Any]:
    return {
        "it": comparison,
        "limit": bars.reach(change.delta for change in comparison.changes),
        "gained": sum(change.gained for change in comparison.changes),
        "lost": sum(change.lost for change in comparison.changes),
        "tasks": list(dict.fromkeys(flip.task for flip in comparison.flips)),
    }
