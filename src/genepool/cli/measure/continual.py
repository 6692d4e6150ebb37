"""`genepool measure continual`: what became of tasks that were learned one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.common import ask
from genepool.cli.measure import common


def continual(
    stages: Annotated[list[str], typer.Argument(help="The model after its first task, after its second, and so on.")],
    tasks: options.TasksOption,
    task: options.TaskOption = None,
    untrained: Annotated[
        str | None, typer.Option(help="Compute forward transfer against this model, from before the first task.")
    ] = None,
    split: options.SplitOption = "test",
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show the accuracy matrix, backward and forward transfer and forgetting of tasks learned one after another.

    Name the models in the order of training and, with --task, the tasks in the order of learning.

    [bold]Examples[/bold]

        genepool measure continual after-1/ after-2/ --tasks tasks/ --task reverse --task upper --untrained base/
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    from genepool import measure
    from genepool.errors import InputError

    # Before anything is asked: a long evaluation must not end in a complaint about counts.
    names = task or _names(tasks, trust_tasks)
    if len(names) != len(stages):
        raise InputError(
            f"got {len(names)} tasks, expected {len(stages)}, one for each model",
            where="--task",
            fix="Name the tasks in the order in which the models learned them",
        )
    models = [*stages, *([untrained] if untrained is not None else [])]
    table = ask(models, tasks, names, split, ledger, limit, device, dtype, trust_tasks, allow_pickle)
    rows = [[table.mean(model, name) for name in table.tasks] for model in table.models]
    before = rows[len(stages)] if untrained is not None else None
    found = measure.continual_accuracy(rows[: len(stages)], before)
    if json_output:
        matrix = {"models": table.models[: len(stages)], "tasks": table.tasks, "matrix": rows[: len(stages)]}
        options.print_json({**matrix, "untrained": before, **found.to_dict()})
        return
    shown = tables.TextTable("after", table.tasks)
    for model, row in zip(table.models, rows, strict=True):
        shown.add_row(model, *(f"{score:.3f}" for score in row))
    shown.add_section()
    for label, values in (
        ("backward transfer", found.backward_transfers),
        ("forward transfer", found.forward_transfers),
        ("forgetting", found.forgettings),
    ):
        shown.add_row(label, *map(common.number, values))
    tables.show(shown)
    tables.print_text(
        f"average {found.average:.3f} · backward transfer {common.number(found.backward_transfer)} · forward transfer "
        f"{common.number(found.forward_transfer)} · forgetting {common.number(found.forgetting)}"
    )


def _names(tasks: Path, trust_tasks: Sequence[Path] | None) -> list[str]:
    from genepool.tasks import load_tasks

    return [one.name for one in load_tasks(tasks, trusted=trust_tasks or ())]
