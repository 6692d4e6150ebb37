"""`genepool library rm`: take a skill out of a library."""

from __future__ import annotations

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption, SkillArgument, open_library


def rm(
    skill: SkillArgument,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Remove a skill from the library, unless other skills there were made from it.

    [bold]Example[/bold]

        genepool library rm reverse-old
    """
    options.begin(quiet)
    with open_library(library) as opened:
        kept = opened.remove(skill)
        if json_output:
            options.print_json({"library": str(opened.folder), "removed": kept.name, "digest": kept.digest})
        else:
            tables.print_text(f"{kept.name}: removed ({options.size_text(kept.bytes)})")
