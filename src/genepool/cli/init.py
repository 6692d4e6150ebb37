"""`genepool init`: a folder with recipe, study and tasks for models that are there, to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.start


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it appears whole or not at all.")],
    models: options.ModelsArgument,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Name the model the others were made from.")
    ] = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a recipe, a study, a training and an example task for models, each explained, to start from.

    [bold]Examples[/bold]

        genepool init project base/ tuned-a/ tuned-b/

        genepool init project my-lora/ other-lora/ --base org/model

    Only headers are read. The base is found from BASE+ADAPTER, or from what the models say about their origin; --base
    names it. Models that do not fit together are refused.
    """
    options.begin(quiet)
    options.refuse_own_input(folder, models, base)
    from genepool import progress, staging

    staging.check_free(folder, overwrite=overwrite)
    with progress.bar("opening the models"):
        from genepool.projects import find_family, write_project

        family = find_family(models, base, allow_pickle=allow_pickle)
    project = write_project(family, folder, overwrite=overwrite)
    if json_output:
        options.print_json(
            {
                "out": str(folder),
                "base": family.base,
                "why": family.why,
                "kind": family.kind.kind,
                "models": [{"name": one.name, "model": one.model, "form": one.form} for one in family.members],
                "files": list(project.files),
                "commands": list(project.commands),
            }
        )
        return
    progress.message(f"the base is {family.base} ({family.why}); {len(family.members)} made from it")
    tables.print_text("\n".join(project.commands))
