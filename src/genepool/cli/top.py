"""`genepool top`: a running study, watched from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genepool.checked import printable
from genepool.cli import options, tables

if TYPE_CHECKING:
    from rich.console import Group

    from genepool.evolution.snapshot import Snapshot

PANEL = options.Panel.evolution
_BARS = "▁▂▃▄▅▆▇█"


def top(
    study: Annotated[Path, typer.Argument(help="The folder of a study, as `genepool evolve --out` writes it.")],
    once: Annotated[bool, typer.Option("--once", help="Show the study as it is now, and exit.")] = False,
    every: Annotated[float, typer.Option("--every", help="Update every N seconds.", min=0.1)] = 1.0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Watch a study that runs in another terminal, until it ends or you press Ctrl-C. Nothing is disturbed.

    [bold]Examples[/bold]

        genepool top run

        genepool top run --json | jq .best
    """
    options.begin(quiet)
    from genepool.evolution.snapshot import take_snapshot

    if json_output:
        options.print_json(options.with_old_keys(take_snapshot(study).to_dict()))
        return
    if once or not sys.stdout.isatty():
        tables.console().print(picture(take_snapshot(study)))
        return
    import time

    from rich.live import Live

    with Live(picture(take_snapshot(study)), console=tables.console(), auto_refresh=False) as live:
        while True:
            seen = take_snapshot(study)
            live.update(picture(seen), refresh=True)
            if not seen.running:
                return
            time.sleep(every)


def picture(seen: Snapshot) -> Group:
    """The snapshot as lines and a table."""
    from rich.console import Group
    from rich.text import Text

    budget = seen.study.budget
    of = f" of {budget.evaluations:,}" if budget.evaluations is not None else ""
    state = "finished" if seen.finished else "running" if seen.running else "stopped"
    where = f", generation {seen.generation}" if seen.generation >= 0 else ""
    lines = [f"{seen.study.strategy.name}, {state}: {seen.done:,}{of} candidates{where}"]
    kinds = ((seen.failed, "failed"), (seen.spared, "spared"), (seen.cached, "known before"))
    if counted := ", ".join(f"{count:,} {what}" for count, what in kinds if count):
        lines[0] += f" ({counted})"
    if seen.best is not None:
        lines.append(f"best {seen.best:.4f}, candidate {seen.best_name}   {sparkline(seen.bests)}")
    known = [value for value in seen.diversity if value is not None]
    if known:
        lines.append(f"disagreement between candidates {known[-1]:.1%}   {sparkline(known)}")
    if seen.pace is not None:
        lines.append(f"{seen.pace:.2g} candidates a second by each worker{_left(seen)}")
    table = tables.TextTable("latest generation", ["best", "mean", "spread"])
    for row in seen.tasks:
        table.add_row(row.task, *(f"{value:.3f}" for value in (row.best, row.mean, row.spread)))
    return Group(*(Text(printable(line)) for line in lines), *([table] if seen.tasks else []))


def _left(seen: Snapshot) -> str:
    seconds = seen.seconds_left
    if seconds is None or seen.finished:
        return ""
    return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def sparkline(values: tuple[float, ...] | list[float], width: int = 40) -> str:
    """Numbers as a row of bars, lowest to highest; the latest `width` of them."""
    shown = list(values)[-width:]
    low, high = min(shown), max(shown)
    if low == high:
        return _BARS[3] * len(shown)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in shown)
