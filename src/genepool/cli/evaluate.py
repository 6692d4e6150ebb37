"""`genepool evaluate`: models x tasks, with intervals, every outcome kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options


def register(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate)


def evaluate(
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
    allow_pickle: options.AllowPickleOption = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of tasks that draw tokens.")] = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Ask models the examples of tasks and print the means with 95% intervals.

    What was evaluated once is read from the ledger and never asked again.

    [bold]Examples[/bold]

        genepool evaluate base/ merged/ --tasks tasks/

        genepool evaluate base/+adapter/ --tasks tasks/ --task reverse --split valid --json
    """
    options.begin(quiet)
    from genepool import progress

    with progress.bar("loading torch"):
        from genepool import measure
        from genepool.tasks import Ledger, load_tasks
        from genepool.tasks import evaluate as ask

    with Ledger(ledger) as book:
        table = ask(
            models,
            load_tasks(tasks, task),
            split=split,
            ledger=book,
            limit=limit,
            seed=seed,
            batch_size=batch_size,
            keep_outputs=outputs,
            device=device,
            allow_pickle=allow_pickle,
        )
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
        options.print_json({"results": results, "evaluated": table.evaluated})
        return
    options.print_matrix(matrix, f"{split} split, mean and 95% interval")
    progress.say(f"{table.evaluated} examples asked now, the rest known from {book.path}")
