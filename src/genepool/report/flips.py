"""Examples that only one of two models solves: which of very many a page shows.

Uses tasks and measure; the pages of a study and of a comparison show them. All texts come from data and models, so none
of them is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from genepool import measure
from genepool.tasks import Example, Ledger, OutcomeTable
from genepool.tasks.ledger import RecordedModel
from genepool.tasks.recorded_pairs import RecordedTask, recorded_flips

_Item = TypeVar("_Item")

#: Flipped examples shown on one page, over all comparisons: some 300 kB at the length texts are cut to.
FLIPS_SHOWN = 400
#: And of one task and direction where there is only one model it is held against.
_FLIPS_LISTED = 20


@dataclass(frozen=True)
class ShownFlip:
    """One example on which subject and rival differ; what a model said is None when its output was not kept."""

    task: str
    example: str
    prompt: str
    expected: str
    rival_said: str | None
    subject_said: str | None
    gained: bool


def flips_of(table: OutcomeTable, old: str, new: str, shown: int = FLIPS_SHOWN) -> tuple[ShownFlip, ...]:
    """Some of the examples that only one of two models solves: of every task, those gained and those lost."""
    each = min(max(shown // max(2 * len(table.tasks), 1), 1), _FLIPS_LISTED)
    found = [flip for change in measure.changes(table, old, new) for flip in flips_of_change(change, each)]
    return tuple(spread_out(found, shown))


def flips_of_change(change: measure.PairedChange, each: int) -> list[ShownFlip]:
    """At most `each` of the examples that were lost and of those that were gained."""
    return [
        _flip(change.task, flip, gained)
        for gained, some in ((False, change.lost), (True, change.gained))
        for flip in _chosen(some, each)
    ]


def flips_on_record(
    ledger: Ledger, old: RecordedModel, new: RecordedModel, tasks: Sequence[RecordedTask], shown: int = FLIPS_SHOWN
) -> tuple[ShownFlip, ...]:
    """The same of two models on record, as far as a ledger tells: it keeps what they wrote, and no prompts."""
    each = min(max(shown // max(2 * len(tasks), 1), 1), _FLIPS_LISTED)
    return tuple(
        ShownFlip(flip.task, flip.example, "", "", flip.old_output, flip.new_output, flip.gained)
        for task in tasks[:shown]
        for flip in recorded_flips(ledger, old, new, task, each)
    )


def spread_out(items: Sequence[_Item], count: int) -> list[_Item]:
    """So many of them at even distances, or all when there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def _chosen(flips: Sequence[measure.Flip], count: int) -> list[measure.Flip]:
    """So many of them at even distances, of those whose outputs were kept as long as there are enough.

    Files are often sorted, so their beginning is not typical.
    """
    told = [flip for flip in flips if flip.old_output is not None and flip.new_output is not None]
    flips = told if len(told) >= min(count, len(flips)) else flips
    return spread_out(flips, count)


def _flip(task: str, flip: measure.Flip, gained: bool) -> ShownFlip:
    return ShownFlip(
        task, flip.example.id, flip.example.prompt, _expected(flip.example), flip.old_output, flip.new_output, gained
    )


def _expected(example: Example) -> str:
    return " · ".join(example.answers[:5]) + (" · …" if len(example.answers) > 5 else "")
