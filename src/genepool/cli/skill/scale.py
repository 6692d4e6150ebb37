"""`genepool skill scale`: a skill times a factor."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.skill.common import BaseOption, OutOption, SkillArgument, store_scaled


def scale(
    skill: SkillArgument,
    factor: Annotated[float, typer.Option("--factor", "-f", help="Multiply the change by this number.")],
    out: OutOption,
    base: BaseOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Multiply a skill by a factor. The form stays the same, and nothing is lost.

    [bold]Example[/bold]

        genepool skill scale reverse.safetensors --factor 0.5 --out half.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, skill, base)
    store_scaled(skill, base, factor, out, "scale", overwrite, json_output, allow_pickle)
