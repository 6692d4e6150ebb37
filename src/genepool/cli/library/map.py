"""`genepool library map`: the skills of a library in the plane, on one page."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.library.common import LibraryOption, open_library

if TYPE_CHECKING:
    from genepool.skills.library_entry import LibraryEntry


class ColouredBy(StrEnum):
    """What the colours of a map show."""

    base = "base"
    tag = "tag"


def map(
    out: Annotated[Path, typer.Option("--out", help="Write the map to this .html or .svg file, which opens offline.")],
    by: Annotated[ColouredBy, typer.Option("--by", help="Colour the skills by this.")] = ColouredBy.base,
    library: LibraryOption = None,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Draw the skills as a map on which similar changes lie close together.

    [bold]Example[/bold]

        genepool library map --out skills.html
    """
    options.begin(quiet)
    from genepool.errors import InputError
    from genepool.report.skill_map import Disc, write_skill_map
    from genepool.skills.sketch import plane
    from genepool.staging import check_file

    check_file(out, overwrite=overwrite)
    with open_library(library) as opened:
        sketches = dict(opened.catalogue.sketches())
        skills = [kept for kept in opened.catalogue.all() if kept.digest in sketches]
        if not skills:
            raise InputError("has no skills", where=opened.folder, fix="Add one with genepool library add")
        places = plane([sketches[kept.digest] for kept in skills]).tolist()
        discs = [Disc(kept.name, x, y, kept.bytes, _group(kept, by), _note(kept)) for kept, (x, y) in
                 zip(skills, places, strict=True)]  # fmt: skip
        title = f"{len(skills):,} skills in {opened.folder.name or opened.folder}"
        write_skill_map(discs, out, title, by.value, overwrite=overwrite)
    if json_output:
        options.print_json({"out": str(out), "skills": [{"name": d.name, "x": d.x, "y": d.y} for d in discs]})
    else:
        tables.print_text(f"{out}: {len(skills):,} skills")


def _group(kept: LibraryEntry, by: ColouredBy) -> str:
    return (kept.base_name or kept.base_fingerprint[:12]) if by is ColouredBy.base else next(iter(kept.tags), "")


def _note(kept: LibraryEntry) -> str:
    parts = [kept.description, f"{kept.form}, {options.size_text(kept.bytes)}, {kept.base_name}", ", ".join(kept.tags)]
    return "\n".join(filter(None, parts))
