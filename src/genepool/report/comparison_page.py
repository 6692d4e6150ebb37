"""The page of a comparison: what new models gained and lost against an old one, gates, and the examples that flipped.

Draws what `genepool.measure` computed; the command line writes it. The same as Markdown: `comparison_markdown`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from genepool.errors import listed
from genepool.measure import NOT_MEASURED, Comparison, GateResult, Interval, TaskComparison
from genepool.report import bars, markdown
from genepool.report.flips import ShownFlip
from genepool.report.parallel_figure import ModelLine, parallel_figure
from genepool.report.templates import NARROW, WIDE, render_page
from genepool.report.text import percent, points, points_interval
from genepool.staging import write_text

#: What a gate's state is called, with a mark that needs no colour.
STATES = {"holds": "✓ holds", "undecided": "? undecided", "fails": "✗ fails"}


@dataclass(frozen=True)
class Compared:
    """One new model beside the old one.

    Attributes:
        comparison: the numbers.
        gates: how its gates went; empty without any.
        flips: some of the examples that flipped.
    """

    comparison: Comparison
    gates: tuple[GateResult, ...] = ()
    flips: tuple[ShownFlip, ...] = ()


@dataclass(frozen=True)
class Row:
    """A task as the page shows it."""

    it: TaskComparison
    old: Interval
    new: Interval
    moved: Interval
    kept: Interval
    lost: Interval


@dataclass(frozen=True)
class _ComparisonPanel:
    it: Compared
    summary: str
    rows: tuple[Row, ...]
    limit: float
    shares: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]
    tasks: tuple[str, ...]
    gates: tuple[tuple[GateResult, str, Interval, Markup], ...] = field(default=())


def render_comparison(compared: Sequence[Compared], facts: Mapping[str, str]) -> str:
    """The page, complete: one HTML text without any reference to the outside.

    Args:
        compared: the new models, one at least, all against the same old one.
        facts: pairs for the end of the page ("ledger", "split").
    """
    return render_page("compare.html.j2", _title(compared), **comparison_values(compared, facts))


def comparison_values(compared: Sequence[Compared], facts: Mapping[str, str]) -> dict[str, Any]:
    """What the template of a comparison names, for pages that show one among other things."""
    tasks = list(dict.fromkeys(a.task for one in compared for a in one.comparison.tasks))
    profiles = _profiles(compared, tasks)
    return {
        "panels": [_panel(one) for one in compared],
        "old": compared[0].comparison.old,
        "notices": list(dict.fromkeys(notice for one in compared for notice in one.comparison.notices)),
        "tasks": tasks,
        "profiles": profiles,
        "charts": [parallel_figure(tasks, profiles, width=size["width"]) for size in (WIDE, NARROW)],
        "states": STATES,
        "facts": facts,
    }


def write_comparison(
    compared: Sequence[Compared], facts: Mapping[str, str], path: str | Path, *, overwrite: bool = True
) -> Path:
    """Writes the comparison, whole or not at all: as Markdown when the name ends in .md, else as a page.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    write_text(
        path, (comparison_markdown if path.suffix == ".md" else render_comparison)(compared, facts), overwrite=overwrite
    )
    return path


def comparison_markdown(compared: Sequence[Compared], facts: Mapping[str, str]) -> str:
    """The numbers as GitHub's Markdown, for a comment on a pull request."""
    lines: list[str] = []
    for one in compared:
        it = one.comparison
        lines += [f"### {markdown.plain(it.old)} → {markdown.plain(it.new)}", "", markdown.plain(summary(one)), ""]
        lines += [f"> {markdown.plain(notice)}" for notice in it.notices] + ([""] if it.notices else [])
        if one.gates:
            lines += ["| gate | task | value | 95% | |", "|---|---|---|---|---|"]
            for gate in one.gates:
                value = gate.value or NOT_MEASURED
                ends = f"{percent(value.lo)} to {percent(value.hi)}" if value.has_ends else ""
                shown = (percent(value.mean), ends)
                lines.append(markdown.line(gate.limit, gate.task, *shown, STATES[state(gate)]))
            lines.append("")
        lines.append("| task | n | old | new | points | 95% | gained | lost | kept | p | |")
        lines.append("|---|--:|--:|--:|--:|---|--:|--:|--:|--:|---|")
        for row in _rows(it):
            matrix = row.it.compatibility.matrix
            numbers = (f"{row.it.n:,}", percent(row.old.mean), percent(row.new.mean), points(row.moved.mean))
            counts = (f"{matrix.gained:,}", f"{matrix.lost:,}", percent(row.kept.mean), f"{row.it.p:.2g}")
            lines.append(markdown.line(row.it.task, *numbers, points_interval(row.moved), *counts, row.it.verdict))
        lines.append("")
    lines += [f"*{markdown.plain(name)}*: {markdown.plain(value)}  " for name, value in facts.items()]
    return "\n".join(lines).rstrip() + "\n"


def summary(one: Compared) -> str:
    """What it gained, what it lost, and whether the gates hold, in a sentence or three."""
    it = one.comparison
    moved = it.difference.interval
    sure = it.difference.sure
    verb = ("gains" if it.difference.difference > 0 else "loses") if sure else "changes by"
    amount = points(moved.mean) if not sure else points(abs(moved.mean)).lstrip("+")
    over = f"in the mean over {len(it.tasks)} tasks" if len(it.tasks) > 1 else f"at {it.tasks[0].task}"
    parts = [
        f"{it.new} {verb} {amount} points {over} ({points_interval(moved)}): "
        f"{it.matrix.gained:,} examples gained, {it.matrix.lost:,} lost."
    ]
    for verdict in ("better", "worse"):
        names = [row.task for row in it.tasks if row.verdict == verdict]
        if names and len(it.tasks) > 1:
            parts.append(f"Surely {verdict} at {listed(names)}.")
    if one.gates:
        counted = {word: sum(state(gate) == word for gate in one.gates) for word in ("holds", "undecided", "fails")}
        told = [f"{counted['holds']} of {len(one.gates)} gates hold"]
        told += [
            f"{counted[word]} {word if word == 'undecided' else 'fail'}"
            for word in ("undecided", "fails")
            if counted[word]
        ]
        parts.append(f"{', '.join(told)}.")
    return " ".join(parts)


def state(gate: GateResult) -> str:
    """A key of `STATES`."""
    return "holds" if gate.passed else "undecided" if gate.undecided else "fails"


def _panel(one: Compared) -> _ComparisonPanel:
    rows = _rows(one.comparison)
    gates = []
    for gate in one.gates:
        value = gate.value or NOT_MEASURED
        limit = gate.gate.at_least if gate.gate.at_least is not None else gate.gate.at_most
        low, high = bars.common_range([value, *([] if limit is None else [Interval(limit)])])
        gates.append((gate, state(gate), value, bars.interval_mark(value, low, high, subject=True, limit=limit)))
    shares = []
    for row in one.comparison.tasks:
        matrix = row.compatibility.matrix
        cells = (matrix.both_right, matrix.gained, matrix.lost, matrix.both_wrong)
        shares.append((row.task, tuple((count, count / matrix.n) for count in cells)))
    return _ComparisonPanel(
        one,
        summary(one),
        rows,
        bars.reach(row.moved for row in rows),
        tuple(shares),
        tuple(dict.fromkeys(flip.task for flip in one.flips)),
        tuple(gates),
    )


def _rows(it: Comparison) -> tuple[Row, ...]:
    return tuple(
        Row(
            row,
            row.old,
            row.new,
            row.difference.interval,
            row.compatibility.kept or NOT_MEASURED,
            row.compatibility.negative_flips,
        )
        for row in it.tasks
    )


def _profiles(compared: Sequence[Compared], tasks: Sequence[str]) -> list[ModelLine]:
    found = [ModelLine(compared[0].comparison.old, _scores(compared, tasks, "old"))]
    return found + [ModelLine(one.comparison.new, _scores([one], tasks, "new")) for one in compared]


def _scores(compared: Sequence[Compared], tasks: Sequence[str], side: str) -> tuple[Interval, ...]:
    """The scores of one model; the old one's are those of the first comparison that has the task."""
    known: dict[str, Interval] = {}
    for one in compared:
        for row in one.comparison.tasks:
            known.setdefault(row.task, row.old if side == "old" else row.new)
    return tuple(known.get(name, NOT_MEASURED) for name in tasks)


def _title(compared: Sequence[Compared]) -> str:
    old, news = compared[0].comparison.old, [one.comparison.new for one in compared]
    return f"{old} → {news[0]}" if len(news) == 1 else f"{len(news)} models against {old}"
