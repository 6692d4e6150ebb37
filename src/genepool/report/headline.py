"""What a study gained and lost, in the one sentence its page opens with.

Counted from outcomes per example: right answers against the best static merge (else the best specialist, else the
base), and what the base knew and the winner no longer does. Uses measure and what was collected of the study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from genepool import measure
from genepool.errors import listed
from genepool.measure import Interval
from genepool.report.outcomes import ahead, members, score
from genepool.report.study_outcomes import StudyOutcomes
from genepool.report.text import MINUS, percent
from genepool.tasks import OutcomeTable

# The group of tasks that no skill is for: what a model may forget.
_KEPT = "generic"
_TASKS = "tasks"


def study_headline(study: StudyOutcomes) -> str:
    """The sentence, of a study in any state: unfinished, tested, or tested with a ledger that is gone."""
    if study.tested:
        rival, role = _rival(study)
        base = "base" if "base" in study.test.models else ""
        name = f"The winner of {study.subject}"
        return headline(study.test, study.subject, rival, study.groups, base=base, name=name, role=role)
    if study.folder.best is not None:
        return _recorded(study)
    judged = [line for line in study.folder.history if line["fitness"] is not None]
    if not judged:
        return "Nothing was gained or lost yet: no candidate has been judged."
    best = percent(max(float(line["fitness"]) for line in judged))
    which = f"the best of {len(judged):,} candidates" if len(judged) > 1 else "the one candidate judged"
    return f"Nothing was gained or lost yet: {which} so far scores {best}% on validation, and none has been tested."


def headline(
    table: OutcomeTable,
    subject: str,
    rival: str,
    groups: Mapping[str, str],
    *,
    base: str = "",
    name: str = "",
    role: str = "",
) -> str:
    """What a model gained on one and lost of another, as a sentence.

    Args:
        table: the outcomes.
        subject: the model.
        rival: the model it is held against; empty for none.
        groups: the group of every task.
        base: the model whose answers it may have lost; empty for none.
        name, role: what the sentence calls the subject and the rival; their names when empty.
    """
    parts = members(table, groups)
    kept = parts[_KEPT] if len(parts) > 1 and _KEPT in parts else list(table.tasks)
    taught = {group: tasks for group, tasks in parts.items() if group != _KEPT} or parts
    tasks = [task for of_group in taught.values() for task in of_group]
    place = "" if set(taught) <= {_TASKS} else f" on {listed(taught)}"
    held = [subject, rival] if rival else [subject]
    said = (_counted if _is_counted(table, held, tasks) else _averaged)(table, held, role or rival, tasks, place)
    lost = _lost(table, base, subject, kept, f"{_KEPT} " if len(kept) < len(table.tasks) else "") if base else ""
    return f"{name or subject} {said}{lost}."


def _rival(study: StudyOutcomes) -> tuple[str, str]:
    """What the winner is held against: its name in the table and what the sentence calls it."""
    table = study.test
    if study.best_merge in table.models:
        return study.best_merge, "the best static merge"
    parents = [name for name, kind in study.kinds.items() if kind == "parent" and name in table.models]
    if not parents:
        return ("base", "the base") if "base" in table.models else ("", "")
    taught = [task for task in table.tasks if study.groups[task] != _KEPT] or list(table.tasks)
    best = max(parents, key=lambda name: score(table, name, taught).mean)
    return best, "the best specialist" if len(parents) > 1 else "the specialist"


def _is_counted(table: OutcomeTable, models: Sequence[str], tasks: Sequence[str]) -> bool:
    """Whether every answer is right or wrong, so that answers can be counted."""
    return all(np.isin(table.scores(model, task), (0.0, 1.0)).all() for model in models for task in tasks)


def _counted(table: OutcomeTable, held: Sequence[str], role: str, tasks: Sequence[str], place: str) -> str:
    ours, *theirs = ([table.scores(model, task) for task in tasks] for model in held)
    asked, right = sum(map(len, ours)), round(sum(float(part.sum()) for part in ours))
    said = f"answers {right:,} of {asked:,} test question{_s(asked)}{place}"
    if not theirs:
        return said
    # A task's mean times its number of examples is a count, so k times the mean over k tasks is a sum over examples.
    scaled = [[part * len(part) for part in parts] for parts in (ours, theirs[0])]
    more = Interval(*(len(tasks) * end for end in measure.macro_paired_bootstrap(*scaled).interval))
    return f"{said}, {_apart(more, _whole, 'as many as', 'more than', 'fewer than', role)}"


def _averaged(table: OutcomeTable, held: Sequence[str], role: str, tasks: Sequence[str], place: str) -> str:
    said = f"scores {percent(score(table, held[0], tasks).mean)}% on test{place and f',{place}'}"
    if len(held) == 1:
        return said
    more = ahead(table, held[0], held[1], tasks)
    return f"{said}, {_apart(more, percent, 'as much as', 'points more than', 'points less than', role)}"


def _apart(more: Interval, written: Callable[[float], str], equal: str, above: str, below: str, role: str) -> str:
    """A difference and its interval in words, turned to what is positive: "3 fewer than ... (95% interval −1 to 7)"."""
    unclear = ": no clear difference" if more.lo <= 0 <= more.hi else ""
    if more.mean < 0:
        more = Interval(-more.mean, -more.hi, -more.lo)
        above = below
    amount = written(more.mean)
    said = f"{equal} {role}" if amount.strip("0.") == "" else f"{amount} {above} {role}"
    return f"{said} (95% interval {written(more.lo)} to {written(more.hi)}{unclear})"


def _lost(table: OutcomeTable, base: str, subject: str, tasks: Sequence[str], which: str) -> str:
    """What became of the answers that the base knew, as a clause."""
    changes = [measure.change(table, base, subject, task) for task in tasks]
    known = sum(int((table.scores(base, task) > 0.5).sum()) for task in tasks)  # as `measure.change` counts them
    lost, gained = sum(len(one.lost) for one in changes), sum(len(one.gained) for one in changes)
    others = f"{gained:,} other{_s(gained)}"
    also = f", and it gained {others}" if gained else ""
    if known == 0:
        asked = sum(len(table.examples(task)) for task in tasks)
        said = f"the base answered none of the {asked:,}" if asked > 1 else "the base did not answer the one"
        return f"; {said} {which}question{_s(asked)}{f', of which it gained {gained:,}' if gained else ''}"
    if known == 1:
        return f"; the base’s one {which}answer it {'lost' if lost else 'kept'}{also}"
    return f"; of the base’s {known:,} {which}answers it lost {f'{lost:,}' if lost else 'none'}{also}"


def _recorded(study: StudyOutcomes) -> str:
    """From the recorded means alone: the outcomes behind them are not at hand."""
    means = {name: [found.mean for found in study.folder.tested(name).values()] for name in ("winner", "base")}
    if not means["winner"]:
        return f"The winner of {study.subject} has no test scores on record."
    said = f"The winner of {study.subject} scores {percent(float(np.mean(means['winner'])))}% on test"
    if means["base"]:
        said += f", the base {percent(float(np.mean(means['base'])))}%"
    return f"{said}; the ledger does not say which answers it gained and lost."


def _whole(value: float) -> str:
    """A number of answers: "37", "−4"."""
    text = f"{abs(round(value)):,}"
    return f"{MINUS}{text}" if round(value) < 0 else text


def _s(number: int) -> str:
    return "" if number == 1 else "s"
