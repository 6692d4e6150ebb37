"""`genepool skill apply`: a base with skills added, as a model folder."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables


def apply(
    skills: Annotated[
        list[str], typer.Argument(help="Skill files or PEFT adapter folders; they are added in this order.")
    ],
    base: Annotated[str, typer.Option(help="Add the skills to this model.")],
    out: options.OutFolderOption,
    force: Annotated[bool, typer.Option("--force", help="Allow a base that the skills were not made for.")] = False,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a base with one or more skills added as a model folder.

    [bold]Example[/bold]

        genepool skill apply reverse.safetensors sort.safetensors --base base/ --out both/
    """
    options.begin(quiet)
    options.refuse_own_input(out, skills, base)
    from genepool.skills import apply_skills
    from genepool.weights import open_weights

    opened = open_weights(base, allow_pickle=allow_pickle)
    apply_skills(skills, opened, base, out, force=force, allow_pickle=allow_pickle, overwrite=overwrite)
    if json_output:
        options.print_json({"out": str(out), "base": base, "skills": skills})
    else:
        tables.print_text(f"{out}: {base} with {', '.join(skills)}")
