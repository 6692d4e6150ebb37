"""Means and differences over groups of tasks, with their intervals, from an outcome table.

Every number is computed here, by `genepool.measure`, from outcomes; nothing is stored instead of them. Uses tasks and
measure; the sections use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genepool import measure
from genepool.measure import Interval
from genepool.tasks import OutcomeTable


def score(table: OutcomeTable, model: str, tasks: Sequence[str]) -> Interval:
    """The mean over tasks, every one counting the same, with its 95% interval."""
    parts = [table.scores(model, task) for task in tasks]
    return measure.mean_interval(parts[0]) if len(parts) == 1 else measure.macro_interval(parts)


def ahead(table: OutcomeTable, subject: str, rival: str, tasks: Sequence[str]) -> Interval:
    """Subject minus rival in the mean over tasks, with its paired 95% interval."""
    return measure.mean_difference(table, subject, rival, tasks).interval


def group_means(table: OutcomeTable, model: str, groups: Mapping[str, str]) -> dict[str, Interval]:
    """The mean over each group's tasks, every task counting the same."""
    return {group: score(table, model, tasks) for group, tasks in members(table, groups).items()}


def members(table: OutcomeTable, groups: Mapping[str, str]) -> dict[str, list[str]]:
    """The tasks of every group.

    Args:
        table: the outcomes.
        groups: the group of every task.
    """
    found: dict[str, list[str]] = {}
    for task in table.tasks:
        found.setdefault(groups[task], []).append(task)
    return found
