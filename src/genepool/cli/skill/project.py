"""`genepool skill project`: the largest changes of a skill alone."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.skill.common import (
    BaseOption,
    DensityOption,
    DtypeOption,
    FormName,
    OutOption,
    Scope,
    SkillArgument,
    form_of,
    open_skill,
    store_and_print,
)


def project(
    skill: SkillArgument,
    out: OutOption,
    base: BaseOption = None,
    density: DensityOption = 0.05,
    scope: Annotated[
        Scope, typer.Option(help="Choose the largest entries of each tensor, or of the whole model.")
    ] = Scope.tensor,
    dtype: DtypeOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Keep only the largest changes, unscaled (SeleKT's projection; with --scope model magnitude localisation).

    [bold]Example[/bold]

        genepool skill project reverse.safetensors --density 0.05 --out reverse-5.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, skill, base)
    from genepool.skills import TopK

    changes = TopK(open_skill(skill, base, allow_pickle), density, scope.value)
    settings = {"density": density, "scope": scope.value}
    store_and_print(changes, out, form_of(FormName.sparse, dtype), "project", settings, overwrite, json_output)
