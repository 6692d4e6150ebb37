"""What the commands of `genepool library` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.skills.library import Library
    from genepool.skills.library_entry import LibraryEntry


LibraryOption = Annotated[
    Path | None,
    typer.Option("--library", help="Use the library in this folder; by default $GENEPOOL_LIBRARY, else ./library."),
]
SKILL = "A skill of the library: its name, or the beginning of its digest."
SkillArgument = Annotated[str, typer.Argument(metavar="SKILL", help=SKILL)]


def open_library(library: Path | None) -> Library:
    """The library of `--library`, or the default one."""
    from genepool.skills.library import Library

    return Library(library)


def print_skills(skills: Sequence[LibraryEntry], extra: tuple[str, Sequence[str]] | None = None) -> None:
    """Prints skills as a table, with `extra` (a heading and a value for each skill) as its first column."""
    heads = ([extra[0]] if extra else []) + ["digest", "form", "base", "size", "tags", "scores"]
    table = tables.TextTable("skill", heads, prose=("base", "tags", "scores"))
    for i, kept in enumerate(skills):
        cells = [
            *([extra[1][i]] if extra else []),
            kept.short,
            kept.form,
            kept.base_name or kept.base_fingerprint[:12],
            options.size_text(kept.bytes),
            ", ".join(kept.tags),
            ", ".join(f"{task} {score:.3g}" for task, score in kept.scores.items()),
        ]
        table.add_row(kept.name, *cells)
    tables.show(table)


def print_added(library: Library, kept: LibraryEntry, added: bool, json_output: bool) -> None:
    """Prints whether a skill was added or was there already, as a line or as JSON."""
    if json_output:
        options.print_json({"library": str(library.folder), "added": added, "skill": kept.to_dict()})
    elif added:
        tables.print_text(f"{kept.name}: added ({kept.short}, {kept.form}, {options.size_text(kept.bytes)})")
    else:
        tables.print_text(f"{kept.name}: there already ({kept.short}), nothing changed")
