"""`genepool outcomes import`: the outcomes of a file, ours or lm-eval's, into a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables


def import_(
    file: Annotated[
        Path, typer.Argument(help="A file of `genepool outcomes export`, or samples of lm-eval --log_samples.")
    ],
    ledger: options.LedgerOption = None,
    model: Annotated[str | None, typer.Option(help="Name the model that lm-eval's samples are of.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Name the task of lm-eval's samples; by default the file's name decides.")
    ] = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Add the outcomes of a file to a ledger: all of them, or none if a line is wrong.

    Outcomes that the ledger has already are not changed.

    [bold]Examples[/bold]

        genepool outcomes import --ledger genepool.sqlite outcomes.jsonl

        genepool outcomes import samples_gsm8k_2025-01-31T10-00-00.jsonl --model org/name
    """
    options.begin(quiet)
    from genepool.tasks import Ledger
    from genepool.tasks.exchange import import_outcomes

    with Ledger(ledger) as book:
        count, new = import_outcomes(book, file, model=model, task=task)
        path = book.path
    if json_output:
        options.print_json({"ledger": str(path), "file": str(file), "rows": count, "imported": new})
    else:
        tables.print_text(f"{path}: {new} outcomes from {file}, {count - new} known before")
