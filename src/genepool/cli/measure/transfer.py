"""`genepool measure transfer`: what training on one task did to every other."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.common import ask
from genepool.cli.measure import common


def transfer(
    base: Annotated[str, typer.Argument(help="The model that all others come from.")],
    models: Annotated[list[str], typer.Argument(help="Fine-tunes and merges of the base.")],
    tasks: options.TasksOption,
    trained: Annotated[
        list[str] | None, typer.Option(help="Mark TASK as the one MODEL was trained on; repeatable.")
    ] = None,
    task: options.TaskOption = None,
    split: options.SplitOption = "test",
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: options.BootstrapSeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what training on one task did to the others: model minus base, paired, with 95% intervals.

    [bold]Examples[/bold]

        genepool measure transfer base/ full/reverse full/upper --tasks tasks/

        genepool measure transfer base/ full/reverse merged/ --tasks tasks/ --trained full/reverse=reverse
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    from genepool import measure, progress

    table = ask([base, *models], tasks, task, split, ledger, limit, device, dtype, trust_tasks, allow_pickle)
    own = common.pairs_of(trained, "--trained")
    matrix = measure.transfer_matrix(table, table.models[0], own, seed=seed)
    if json_output:
        options.print_json(matrix.to_dict())
        return
    shown = tables.TextTable("model", [*matrix.tasks, "elsewhere"])
    for model in matrix.models:
        cells = []
        for name in matrix.tasks:
            mark = " *" if matrix.p[model, name] < measure.ALPHA else ""
            own_task = " °" if own.get(model) == name else ""
            cells.append(common.difference(matrix.cells[model, name]).replace("\n", f"{mark}{own_task}\n", 1))
        shown.add_row(model, *cells, common.difference(matrix.elsewhere.get(model)))
    shown.title = f"difference from {matrix.base}"
    tables.show(shown)
    marks = f"* surely different, all {len(matrix.cells)} tests together (Holm)"
    progress.message(marks + ("; ° the task it was trained on, not counted elsewhere" if own else ""))
