"""From study folders, or an outcome table alone, to a page: every section collects what it shows.

Uses the sections; the command line and the demo call `collect_study`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from genepool.report import wording
from genepool.report.headline import headline, study_headline
from genepool.report.kinds import KIND_OF_ONE, Kind
from genepool.report.page import Report
from genepool.report.sections import all_sections
from genepool.report.sections.changes import Changes, comparisons
from genepool.report.sections.scores import Scores, model_row, tasks
from genepool.report.sections.standings import Standings, standings
from genepool.report.study_folder import open_study_folder
from genepool.report.study_outcomes import ExtraModel, StudyOutcomes
from genepool.tasks import OutcomeTable


def collect_study(
    folder: str | Path,
    *,
    beside: Sequence[str | Path] = (),
    extra_models: Sequence[ExtraModel] = (),
    ledger: str | Path | None = None,
    groups: Mapping[str, str] | None = None,
    best_merge: str = "",
    title: str = "",
    summary: str = "",
    commands: Sequence[str] = (),
    trusted: Collection[str | Path] = (),
) -> Report:
    """Everything a page shows about a study, finished or not.

    Args:
        folder: the study the page is about.
        beside: folders of further studies on the same tasks (random search at an equal budget).
        extra_models: models to show with them (static merges, adapters).
        ledger: where outcomes are; the one the study recorded, else the default, when None.
        groups: group of every task; "skills" for tasks named like a skill and "generic" for others when None.
        best_merge: name of the extra model that was chosen on validation as the best static merge. When empty, the
            one with the highest fitness on all validation examples, on those the study used, or on test: the first of
            these that the ledger holds for all static merges.
        title, summary: replace the words made from the study.
        commands: replace the command lines made from the study.
        trusted: files of tasks that may run code; without it the page shows recorded means alone.

    Raises:
        InputError: a folder is no study, a file of it is damaged, or its tasks are gone.
    """
    found = StudyOutcomes(
        open_study_folder(folder),
        [open_study_folder(path) for path in beside],
        extra_models,
        ledger=ledger,
        groups=groups,
        best_merge=best_merge,
        commands=commands,
        trusted=trusted,
    )
    return Report(
        title or wording.title(found),
        study_headline(found),
        summary or wording.summary(found),
        tuple(wording.notices(found)),
        found.subject,
        tuple(section for kind in all_sections() if (section := kind.collect(found)) is not None),
        all(one.best is not None for one in found.folders.values()),
    )


def report_on(
    table: OutcomeTable,
    kinds: Mapping[str, Kind],
    *,
    title: str,
    summary: str = "",
    subject: str = "",
    against: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
) -> Report:
    """A page for models that were evaluated, without a study.

    Args:
        table: their outcomes.
        kinds: the kind of every model of the table.
        title, summary: the heading, and a sentence below it.
        subject: the model the page is about; no comparisons when empty.
        against: models the subject is held against; all others when empty.
        groups: group of every task; all in one group when None.
    """
    groups = dict(groups) if groups is not None else dict.fromkeys(table.tasks, "tasks")
    rivals = list(against) or [model for model in table.models if model != subject]
    rows = tuple(model_row(table, model, kinds[model], groups) for model in table.models)
    scores = Scores(tasks(table, groups), rows)
    if not subject:
        return Report(title, summary=summary, sections=(scores,))
    roles = [(KIND_OF_ONE[kinds[rival]], [rival]) for rival in rivals[:3]]
    held = Standings(standings(table, subject, roles, groups))
    moved = Changes(comparisons(table, subject, rivals, kinds, groups))
    base = next((model for model in table.models if kinds[model] == "base"), "")
    said = headline(table, subject, rivals[0] if rivals else "", groups, base=base)
    return Report(title, said, summary, subject=subject, sections=(held, scores, moved))
