"""`genepool skill sum`: several skills of one base as one."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.skill.common import BaseOption, DtypeOption, FormName, OutOption, RankOption, form_of, store_and_print


def sum(
    skills: Annotated[list[str], typer.Argument(metavar="SKILL ...", help="Skills of one base.")],
    out: OutOption,
    base: BaseOption = None,
    to: Annotated[
        FormName | None,
        typer.Option(
            help="Store the sum in this form; by default low-rank if --rank is given or all skills are, else dense."
        ),
    ] = None,
    rank: RankOption = None,
    dtype: DtypeOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Add up skills of one base. Low-rank factors are put side by side, which is exact.

    [bold]Example[/bold]

        genepool skill sum reverse.safetensors sort.safetensors --out both.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, skills, base)
    from genepool.weights import Sum, open_change, open_weights
    from genepool.weights.store import stored_form

    opened = open_weights(base, allow_pickle=allow_pickle) if base else None
    total = Sum([open_change(skill, opened, allow_pickle=allow_pickle) for skill in skills])
    if to is None and (rank is not None or dtype is not None):
        to = FormName.low_rank if rank is not None or stored_form(total) == "low-rank" else FormName.dense
    form = form_of(to, dtype, rank) if to else None
    store_and_print(total, out, form, "sum", {}, overwrite, json_output)
