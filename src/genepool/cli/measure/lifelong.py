"""`genepool measure lifelong`: the domain-agnostic suite of lifelong learning, from a log of blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.measure import common


def lifelong(
    log: Annotated[
        Path, typer.Argument(help="The log of training and evaluation blocks: .jsonl, .csv or l2logger's .tsv.")
    ],
    measure_column: Annotated[str, typer.Option("--measure", help="Read the score from this column.")] = "reward",
    expert: Annotated[
        list[str] | None,
        typer.Option(help="Compare TASK with the log of a model that learned it alone; repeatable."),
    ] = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Compute the metrics of lifelong learning that l2metrics defines, from a log of training and evaluation.

    They are performance maintenance, forward and backward transfer, relative performance, sample efficiency and
    recovery. A log has the columns block_num, block_type (train or test), task_name, exp_num and the score.

    [bold]Examples[/bold]

        genepool measure lifelong log.tsv

        genepool measure lifelong log.csv --measure accuracy --expert reverse=expert-reverse.csv --json
    """
    options.begin(quiet)
    from genepool import measure

    experts = {
        name: [
            score for block in measure.read_log(path, measure_column) if block.kind == "train" for score in block.scores
        ]
        for name, path in common.pairs_of(expert, "--expert").items()
    }
    found = measure.lifelong_metrics(measure.read_log(log, measure_column), experts)
    if json_output:
        options.print_json(found.to_dict())
        return
    heads = ["last evaluation", "maintenance", "relative", "efficiency", "recovery"]
    shown = tables.TextTable("task", heads)
    for one in found.tasks:
        last = f"{one.evaluated[-1]:.3f}" if one.evaluated else "–"
        rest = [common.number(value) for value in (one.maintenance, one.relative, one.efficiency, one.recovery)]
        shown.add_row(one.task, last, *rest)
    shown.add_section()
    means = (found.maintenance, found.relative, found.efficiency, found.recovery)
    terminal = "–" if found.terminal is None else f"{found.terminal:.3f}"
    shown.add_row("mean", terminal, *map(common.number, means))
    tables.show(shown)
    if found.transfers:
        moved = tables.TextTable("trained → evaluated", ["direction", "ratio", "contrast"])
        for pair in found.transfers:
            first = (pair.ratios[0], pair.contrasts[0])
            moved.add_row(f"{pair.trained} → {pair.on}", pair.direction, *map(common.number, first))
        tables.show(moved)
