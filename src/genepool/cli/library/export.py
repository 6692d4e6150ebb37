"""`genepool library export`: write a skill as a folder to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption, SkillArgument, open_library


def export(
    skill: SkillArgument,
    out: Annotated[Path, typer.Option("--out", help="Write the skill, its model card and its lineage to this folder.")],
    library: LibraryOption = None,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a skill as a folder to share: the file, a model card and its lineage.

    [bold]Example[/bold]

        genepool library export reverse --out reverse-skill/
    """
    options.begin(quiet)
    options.refuse_own_input(out, library)
    from genepool.skills.library_export import export as export_skill

    with open_library(library) as opened:
        kept = export_skill(opened, skill, out, overwrite=overwrite)
        if json_output:
            options.print_json({"out": str(out), "name": kept.name, "digest": kept.digest})
        else:
            tables.print_text(f"{out}: {kept.name}")
