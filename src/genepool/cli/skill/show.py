"""`genepool skill show`: what a skill file holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from genepool.cli import options, tables


def show(
    skill: Annotated[str, typer.Argument(metavar="SKILL", help="The skill file to show.")],
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what a skill file holds: form, base, lineage, scores and size.

    [bold]Example[/bold]

        genepool skill show reverse.safetensors
    """
    options.begin(quiet)
    from genepool.weights import SkillFile

    found = SkillFile(skill)
    header = found.header
    kinds: dict[str, int] = {}
    for name in found.names():
        kind = found.stored(name)[0].kind
        kinds[kind] = kinds.get(kind, 0) + 1
    answer: dict[str, Any] = {
        "file": skill,
        "form": found.form,
        "bytes": found.nbytes,
        "digest": found.digest(),
        "tensors": len(found.names()),
        "stored_as": kinds,
        **{key: value for key, value in vars(header).items() if value not in ("", {}, None)},
    }
    if json_output:
        options.print_json(answer)
        return
    table = tables.TextTable("", [skill], prose=[skill])
    for key, value in answer.items():
        text = options.size_text(value) if key == "bytes" else str(value)
        table.add_row(key.replace("_", " "), text) if key != "file" else None
    tables.show(table)
