"""`genepool library check`: hash every file of a library, and mend what can be mended."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption, open_library


def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired; see docs/how-to/keep-skills.md.")
    ] = False,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Hash every file and report what is missing, damaged or left over; exit with 1 if problems remain.

    [bold]Example[/bold]

        genepool library check --repair
    """
    options.begin(quiet)
    from genepool.errors import CheckFailed
    from genepool.skills.library_check import check as check_library

    with open_library(library) as opened:
        found = check_library(opened, repair=repair)
        left = [problem for problem in found if not problem.repaired]
        if json_output:
            options.print_json({"library": str(opened.folder), "problems": [problem.to_dict() for problem in found]})
        else:
            for problem in found:
                tables.print_text(
                    f"{problem.where}: {problem.text}" + (f": {problem.repaired}" if problem.repaired else "")
                )
            if not left:
                tables.print_text(f"{opened.folder}: {len(opened.catalogue.all()):,} skills, all whole")
    if left:
        fix = "" if repair else " Mend what can be mended with --repair."
        raise CheckFailed(f"{len(left):,} problem{'s' if len(left) > 1 else ''} in {library or 'the library'}.{fix}")
