"""`genepool evaluate`: models x tasks, with intervals, every outcome kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.measure.racing import DroppedModel

PANEL = options.Panel.measuring
OLD_SPELLINGS = {"--risk": "--race-error"}


def evaluate(
    context: typer.Context,
    models: options.ModelsArgument,
    tasks: options.TasksOption,
    task: options.TaskOption = None,
    split: options.SplitOption = "test",
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
    batch_size: options.BatchSizeOption = 128,
    outputs: Annotated[bool, typer.Option(help="Keep what models write, also where the score needs no text.")] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Put adapters of one base into shared batches; not with --race.")
    ] = False,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: options.DrawingSeedOption = None,
    race: Annotated[
        bool, typer.Option("--race", help="Find the best model only: drop each model that a test shows to be behind.")
    ] = False,
    race_error: Annotated[
        float,
        typer.Option(
            "--race-error", help="Set the maximum probability that the best model is dropped; only with --race."
        ),
    ] = 0.05,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Evaluate models on tasks and print mean scores with 95% intervals.

    Outcomes are kept in the ledger: no model is asked the same example twice.

    [bold]Examples[/bold]

        genepool evaluate base/ merged/ --tasks tasks/

        genepool evaluate base/+adapter/ --tasks tasks/ --task reverse --split valid --json

        genepool evaluate candidates/* --tasks tasks/ --split valid --race

        genepool evaluate base/ base/+lora/sort base/+lora/reverse --tasks tasks/ --mixed
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    options.only_with(context, race, "--race", "race_error")
    from genepool import progress
    from genepool.errors import InputError

    if race and mixed:
        raise InputError("a race asks one model after the other", where="--mixed", fix="Leave --mixed or --race out")

    with progress.bar("loading torch"):
        from genepool import measure
        from genepool.measure.racing import race_models
        from genepool.tasks import Ledger, load_tasks
        from genepool.tasks import evaluate as ask

    dropped: tuple[DroppedModel, ...] = ()
    with Ledger(ledger) as book:
        asking: dict[str, Any] = {
            "split": split,
            "ledger": book,
            "limit": limit,
            "batch_size": batch_size,
            "keep_outputs": outputs,
            "device": device,
            "dtype": dtype,
            "allow_pickle": allow_pickle,
        }
        asked = load_tasks(tasks, task, trusted=trust_tasks or ())
        if race:
            raced = race_models(models, asked, risk=race_error, seed=seed or 0, **asking)
            table, dropped, evaluated = raced.table, raced.dropped, raced.asked
        else:
            if mixed:
                from genepool.composition.mixing.evaluation import of_one_base

                asking["shared"] = of_one_base
            table = ask(models, asked, seed=seed, **asking)
            evaluated = table.evaluated
    matrix = measure.CrossMatrix.of(table)
    if json_output:
        results = [
            {
                "model": model,
                "fingerprint": table.fingerprints[model],
                "task": name,
                "n": matrix.counts[name],
                "mean": matrix.cells[model, name].mean,
                "lo": matrix.cells[model, name].lo,
                "hi": matrix.cells[model, name].hi,
                "cached": table.cached(model, name),
            }
            for model in table.models
            for name in table.tasks
        ]
        told = {"dropped": [asdict(one) for one in dropped], "saved": raced.saved} if race else {}
        options.print_json({"results": results, "evaluated": evaluated, **told})
        return
    tables.print_matrix(matrix, f"{split} split, mean and 95% interval")
    for one in dropped:
        progress.message(
            f"{one.name} dropped out after {one.examples} examples of each task, with a mean of {one.mean:.3f}"
        )
    if race:
        progress.message(
            f"the race spared {raced.saved:,} examples; the best drops out in {race_error:.0%} of races at most"
        )
    progress.message(f"{evaluated} examples evaluated now, the rest read from {book.path}")
