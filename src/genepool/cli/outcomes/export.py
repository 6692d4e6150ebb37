"""`genepool outcomes export`: every outcome of a ledger, in a file to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables


def export(
    file: Annotated[Path | None, typer.Argument(help="The JSONL file to write, one line for each outcome.")] = None,
    out: options.OutInsteadOption = None,
    ledger: options.LedgerOption = None,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write every outcome of a ledger to a file.

    [bold]Example[/bold]

        genepool outcomes export --ledger genepool.sqlite outcomes.jsonl
    """
    options.begin(quiet)
    file = options.place(file, out, "FILE")
    from genepool.errors import InputError
    from genepool.tasks import Ledger
    from genepool.tasks.exchange import export_outcomes
    from genepool.tasks.ledger import default_path

    path = ledger or default_path()
    options.refuse_own_input(file, path)
    if not path.exists():
        raise InputError("no such file", where=path, fix="Name a ledger with --ledger")
    with Ledger(path) as book:
        count = export_outcomes(book, file, overwrite=overwrite)
    if json_output:
        options.print_json({"ledger": str(path), "file": str(file), "exported": count})
    else:
        tables.print_text(f"{file}: {count} outcomes of {path}")
