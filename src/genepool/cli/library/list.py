"""`genepool library list`: what a library holds."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption, open_library, print_skills


def list(
    base: Annotated[
        str | None, typer.Option(help="List only skills of this base: its name, or the start of its fingerprint.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="List only skills with this tag.")] = None,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """List the skills of a library.

    [bold]Example[/bold]

        genepool library list --tag strings
    """
    options.begin(quiet)
    from genepool.skills.library_search import filtered

    with open_library(library) as opened:
        skills = filtered(opened.catalogue.all(), base, tag)
        if json_output:
            options.print_json({"library": str(opened.folder), "skills": [kept.to_dict() for kept in skills]})
        elif not skills:
            tables.print_text(f"{opened.folder}: no skill{' like that' if base or tag else ''}")
        else:
            print_skills(skills)
