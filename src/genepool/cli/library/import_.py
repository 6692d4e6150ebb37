"""`genepool library import`: add a skill that somebody exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.library.common import LibraryOption, open_library, print_added


def import_(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_FILE", help="A folder that `genepool library export` wrote, or a skill file."
        ),
    ],
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Add an exported skill, with its name, tags, description and scores.

    [bold]Example[/bold]

        genepool library import reverse-skill/
    """
    options.begin(quiet)
    from genepool.skills.library_export import import_skill as bring_in_skill

    with open_library(library) as opened:
        print_added(opened, *bring_in_skill(opened, path), json_output)
