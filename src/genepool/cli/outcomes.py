"""`genepool outcomes`: carry outcomes between ledgers, and bring those of lm-eval in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options

LedgerOption = Annotated[Path | None, typer.Option(help="The ledger; $GENEPOOL_LEDGER when absent.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Export outcomes to a JSONL file, import them from one.")
    group.command("export")(export)
    group.command("import")(import_)
    app.add_typer(group, name="outcomes")


def export(
    file: Annotated[Path, typer.Argument(help="The JSONL file to write, a line per outcome.")],
    ledger: LedgerOption = None,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write every outcome of a ledger to a file.

    [bold]Example[/bold]

        genepool outcomes export --ledger genepool.sqlite outcomes.jsonl
    """
    options.begin(quiet)
    from genepool.errors import InputError
    from genepool.tasks import Ledger
    from genepool.tasks.exchange import export_outcomes
    from genepool.tasks.ledger import default_path

    path = ledger or default_path()
    if not path.exists():
        raise InputError("no such ledger", where=path, fix="Name one with --ledger")
    with Ledger(path) as book:
        count = export_outcomes(book, file, overwrite=overwrite)
    if json_output:
        options.print_json({"ledger": str(path), "file": str(file), "exported": count})
    else:
        print(f"{file}: {count} outcomes of {path}")


def import_(
    file: Annotated[Path, typer.Argument(help="An export, or a samples file of lm-eval --log_samples.")],
    ledger: LedgerOption = None,
    model: Annotated[str | None, typer.Option(help="lm-eval: the model the samples are of.")] = None,
    task: Annotated[str | None, typer.Option(help="lm-eval: the task; from the file's name when absent.")] = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Add the outcomes of a file to a ledger: all of them, or none when a line is wrong.

    What the ledger has already stays as it is.

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
        print(f"{path}: {new} outcomes from {file}, {count - new} known before")
