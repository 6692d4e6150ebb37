"""`genepool library init`: make an empty library."""

from __future__ import annotations

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption


def init(
    library: LibraryOption = None, json_output: options.JsonOption = False, quiet: options.QuietOption = False
) -> None:
    """Make an empty library. A library that exists already is not changed.

    [bold]Example[/bold]

        genepool library init --library skills/
    """
    options.begin(quiet)
    from genepool.skills.library import Library, default_folder

    folder = library or default_folder()
    created = Library.create(folder)
    if json_output:
        options.print_json({"library": str(folder), "created": created})
    else:
        tables.print_text(f"{folder}: {'an empty library' if created else 'a library is here already'}")
