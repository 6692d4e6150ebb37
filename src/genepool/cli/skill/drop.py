"""`genepool skill drop`: a skill with entries dropped by chance (DARE)."""

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
    SkillArgument,
    form_of,
    open_skill,
    store_and_print,
)


def drop(
    skill: SkillArgument,
    out: OutOption,
    base: BaseOption = None,
    density: DensityOption = 0.1,
    rescale: Annotated[bool, typer.Option(help="Divide the entries that stay by the density.")] = True,
    dtype: DtypeOption = None,
    seed: options.SeedOption = 0,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Drop entries at random and scale up the others to compensate (DARE).

    [bold]Example[/bold]

        genepool skill drop reverse.safetensors --density 0.1 --out reverse-dare.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, skill, base)
    from genepool.skills import Dare

    changes = Dare(open_skill(skill, base, allow_pickle), density, rescale=rescale, seed=seed)
    settings = {"density": density, "rescale": rescale, "seed": seed}
    store_and_print(changes, out, form_of(FormName.sparse, dtype), "drop", settings, overwrite, json_output)
