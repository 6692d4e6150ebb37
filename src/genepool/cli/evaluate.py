"""`genepool evaluate`: models x tasks, with intervals, every outcome kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options

if TYPE_CHECKING:
    from genepool.measure.raced import Dropped


def evaluate(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(help="Folders, files, hub models, BASE+ADAPTER, BASE+SKILL.")],
    tasks: Annotated[Path, typer.Option(help="Folder of tasks, one task folder, or one JSONL file.")],
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given several times.")] = None,
    split: Annotated[str, typer.Option(help="Which examples: train, valid or test.")] = "test",
    ledger: Annotated[Path | None, typer.Option(help="Where outcomes are kept; $GENEPOOL_LEDGER when absent.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many examples of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per batch.")] = 128,
    outputs: Annotated[
        bool, typer.Option(help="Also keep what models write where the score needs no writing.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where the model computes, such as cpu or cuda.")] = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of tasks that draw tokens.")] = None,
    race: Annotated[
        bool, typer.Option("--race", help="Only find the best: ask models that are surely behind no further.")
    ] = False,
    risk: Annotated[float, typer.Option(help="With --race: how likely, at most, the best drops out.")] = 0.05,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Ask models the examples of tasks and print the means with 95% intervals.

    What was evaluated once is read from the ledger and never asked again.

    [bold]Examples[/bold]

        genepool evaluate base/ merged/ --tasks tasks/

        genepool evaluate base/+adapter/ --tasks tasks/ --task reverse --split valid --json

        genepool evaluate candidates/* --tasks tasks/ --split valid --race
    """
    options.begin(quiet)
    options.only_with(context, race, "--race", "risk")
    from genepool import progress

    with progress.bar("loading torch"):
        from genepool import measure
        from genepool.measure.raced import race_models
        from genepool.tasks import Ledger, load_tasks
        from genepool.tasks import evaluate as ask

    dropped: tuple[Dropped, ...] = ()
    with Ledger(ledger) as book:
        asking: dict[str, Any] = {
            "split": split,
            "ledger": book,
            "limit": limit,
            "batch_size": batch_size,
            "keep_outputs": outputs,
            "device": device,
            "allow_pickle": allow_pickle,
        }
        asked = load_tasks(tasks, task, trusted=trust_tasks or ())
        if race:
            raced = race_models(models, asked, risk=risk, seed=seed or 0, **asking)
            table, dropped, evaluated = raced.table, raced.dropped, raced.asked
        else:
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
    options.print_matrix(matrix, f"{split} split, mean and 95% interval")
    for one in dropped:
        progress.say(
            f"{one.name} dropped out after {one.examples} examples of each task, with a mean of {one.mean:.3f}"
        )
    if race:
        progress.say(f"the race spared {raced.saved:,} examples; the best drops out in {risk:.0%} of races at most")
    progress.say(f"{evaluated} examples asked now, the rest known from {book.path}")
