"""From outcomes per example to what the page shows: rows of the matrix, standings, gains and losses.

Every number and interval is computed here, by `genepool.measure`, from an outcome table; nothing is stored instead of
it. Uses tasks and measure; `collect` uses it for studies, and `report_on` serves a table without a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from genepool import measure
from genepool.report.data import (
    KIND_OF_ONE,
    Ability,
    Change,
    Comparison,
    Estimate,
    Flip,
    Kind,
    ModelRow,
    ReportData,
    Rival,
    Standing,
)
from genepool.tasks import Example, Ledger, OutcomeTable
from genepool.tasks.ledger import RecordedModel
from genepool.tasks.recorded_pairs import RecordedTask, recorded_flips

_Item = TypeVar("_Item")

#: Flipped examples shown on one page, over all comparisons: some 300 kB at the length texts are cut to.
FLIPS_SHOWN = 400
#: And at most so many of one ability and direction against one model.
FLIPS_EACH = 4
#: And of one ability and direction where there is only one model it is held against.
_FLIPS_LISTED = 20


def report_on(
    table: OutcomeTable,
    kinds: Mapping[str, Kind],
    *,
    title: str,
    summary: str = "",
    subject: str = "",
    against: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
) -> ReportData:
    """A page for models that were evaluated, without a study.

    Args:
        table: their outcomes.
        kinds: the kind of every model of the table.
        title, summary: the heading, and a sentence below it.
        subject: the model the page is about; no comparisons when empty.
        against: models the subject is held against; all others when empty.
        groups: group of every task; all in one group when None.
    """
    groups = dict(groups) if groups is not None else dict.fromkeys(table.tasks, "abilities")
    rivals = list(against) or [model for model in table.models if model != subject]
    return ReportData(
        title,
        summary,
        subject=subject,
        abilities=abilities(table, groups),
        models=tuple(model_row(table, model, kinds[model], groups) for model in table.models),
        standings=standings(table, subject, [(KIND_OF_ONE[kinds[rival]], [rival]) for rival in rivals[:3]], groups)
        if subject
        else (),
        comparisons=comparisons(table, subject, rivals, kinds, groups) if subject else (),
    )


def abilities(table: OutcomeTable, groups: Mapping[str, str]) -> tuple[Ability, ...]:
    """The columns: every task with its group and number of examples, groups together."""
    found = [Ability(task, groups[task], len(table.examples(task))) for task in table.tasks]
    order = list(dict.fromkeys(ability.group for ability in found))
    return tuple(sorted(found, key=lambda ability: order.index(ability.group)))


def model_row(
    table: OutcomeTable, model: str, kind: Kind, groups: Mapping[str, str], *, name: str = "", note: str = ""
) -> ModelRow:
    """One model's scores and group means with 95% intervals."""
    scores = {task: score(table, model, [task]) for task in table.tasks}
    return ModelRow(name or model, kind, scores, group_means(table, model, groups), note)


def group_means(table: OutcomeTable, model: str, groups: Mapping[str, str]) -> dict[str, Estimate]:
    """The mean over each group's tasks, every task counting the same."""
    return {group: score(table, model, tasks) for group, tasks in members(table, groups).items()}


def score(table: OutcomeTable, model: str, tasks: Sequence[str]) -> Estimate:
    """The mean over tasks, every one counting the same, with its 95% interval."""
    parts = [table.scores(model, task) for task in tasks]
    found = measure.mean_interval(parts[0]) if len(parts) == 1 else measure.macro_interval(parts)
    return Estimate(found.mean, found.lo, found.hi, sum(map(len, parts)))


def ahead(table: OutcomeTable, subject: str, rival: str, tasks: Sequence[str]) -> Estimate:
    """Subject minus rival in the mean over tasks, with its paired 95% interval."""
    found = measure.mean_difference(table, subject, rival, tasks)
    count = sum(len(table.examples(task)) for task in tasks)
    return Estimate(found.difference, found.lo, found.hi, count)


def standings(
    table: OutcomeTable, subject: str, rivals: Sequence[tuple[str, Sequence[str]]], groups: Mapping[str, str]
) -> tuple[Standing, ...]:
    """Where the subject stands on every group.

    Args:
        rivals: (role, models): of several models the one with the highest mean on the group stands for the role.
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


def comparisons(
    table: OutcomeTable,
    subject: str,
    rivals: Sequence[str],
    kinds: Mapping[str, Kind],
    groups: Mapping[str, str],
) -> tuple[Comparison, ...]:
    """The subject against each rival, with a share of the page's flipped examples each."""
    rivals = list(dict.fromkeys(rivals))
    cells = max(2 * len(rivals) * len(table.tasks), 1)
    each = min(max(FLIPS_SHOWN // cells, 1), FLIPS_EACH)
    share = FLIPS_SHOWN // max(len(rivals), 1)
    return tuple(_comparison(table, subject, rival, kinds[rival], groups, each, share) for rival in rivals)


def flips_of(table: OutcomeTable, old: str, new: str, shown: int = FLIPS_SHOWN) -> tuple[Flip, ...]:
    """Some of the examples that only one of two models solves: of every ability, those gained and those lost."""
    each = max(shown // max(2 * len(table.tasks), 1), 1)
    found = []
    for change in measure.changes(table, old, new):
        for gained, some in ((False, change.lost), (True, change.gained)):
            found += [_flip(change.task, flip, gained) for flip in _chosen(some, min(each, _FLIPS_LISTED))]
    return tuple(_spread_out(found, shown))


def flips_on_record(
    ledger: Ledger, old: RecordedModel, new: RecordedModel, tasks: Sequence[RecordedTask], shown: int = FLIPS_SHOWN
) -> tuple[Flip, ...]:
    """The same of two models on record, as far as a ledger tells: it keeps what they wrote, and no prompts."""
    each = min(max(shown // max(2 * len(tasks), 1), 1), _FLIPS_LISTED)
    return tuple(
        Flip(flip.task, flip.example, "", "", flip.old_output, flip.new_output, flip.gained)
        for task in tasks[:shown]
        for flip in recorded_flips(ledger, old, new, task, each)
    )


def members(table: OutcomeTable, groups: Mapping[str, str]) -> dict[str, list[str]]:
    """The tasks of every group."""
    found: dict[str, list[str]] = {}
    for task in table.tasks:
        found.setdefault(groups[task], []).append(task)
    return found


def _comparison(
    table: OutcomeTable, subject: str, rival: str, kind: Kind, groups: Mapping[str, str], each: int, share: int
) -> Comparison:
    rows, flips = [], []
    for ability in abilities(table, groups):
        found = measure.change(table, rival, subject, ability.name)
        moved = Estimate(found.difference.difference, found.difference.lo, found.difference.hi, ability.n)
        rows.append(Change(ability.name, ability.group, moved, len(found.gained), len(found.lost)))
        for gained, some in ((False, found.lost), (True, found.gained)):
            flips += [_flip(ability.name, flip, gained) for flip in _chosen(some, each)]
    return Comparison(subject, rival, kind, tuple(rows), tuple(_spread_out(flips, share)))


def _chosen(flips: Sequence[measure.Flip], count: int) -> list[measure.Flip]:
    """So many of them at even distances, of those whose outputs were kept as long as there are enough.

    Files are often sorted, so their beginning is not typical.
    """
    told = [flip for flip in flips if flip.old_output is not None and flip.new_output is not None]
    flips = told if len(told) >= min(count, len(flips)) else flips
    return _spread_out(flips, count)


def _spread_out(items: Sequence[_Item], count: int) -> list[_Item]:
    """So many of them at even distances, or all when there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def _flip(ability: str, flip: measure.Flip, gained: bool) -> Flip:
    return Flip(
        ability, flip.example.id, flip.example.prompt, _expected(flip.example), flip.old_output, flip.new_output, gained
    )


def _expected(example: Example) -> str:
    return " · ".join(example.answers[:5]) + (" · …" if len(example.answers) > 5 else "")
