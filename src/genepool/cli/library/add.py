"""`genepool library add`: copy a skill file into a library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.library.common import LibraryOption, open_library, print_added


def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The skill file to add.")],
    name: Annotated[
        str | None, typer.Option(help="Call the skill this; by default its header's name, else the file's.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Tag the skill with this word; repeatable.")] = None,
    description: Annotated[
        str | None, typer.Option(help="Describe the skill, instead of the header's sentence.")
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option("--score", metavar="TASK=NUMBER", help="Record a score of the skill; repeatable."),
    ] = None,
    library: LibraryOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Copy a skill file into the library. Adding the same file again changes nothing.

    [bold]Example[/bold]

        genepool library add reverse.safetensors --tag strings --score reverse=0.93
    """
    options.begin(quiet)
    with open_library(library) as opened:
        kept, added = opened.add(
            file, name=name, tags=tag or [], description=description, scores=_scores(score or [])
        )  # fmt: skip
        print_added(opened, kept, added, json_output)


def _scores(given: Sequence[str]) -> dict[str, float]:
    from genepool.errors import InputError

    found = {}
    for text in given:
        task, _, score = text.rpartition("=")
        try:
            found[task] = float(score)
        except ValueError:
            found[task] = float("nan")
        if not task or found[task] != found[task]:
            raise InputError(
                f"got {text!r}, expected TASK=SCORE", where="--score", fix="Write it like --score reverse=0.93"
            )
    return found
