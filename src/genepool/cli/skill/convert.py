"""`genepool skill convert`: a skill in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.skill.common import (
    BaseOption,
    BitsOption,
    DtypeOption,
    FormName,
    Packing,
    PackingOption,
    RankOption,
    SkillArgument,
    Target,
    form_of,
    open_skill,
    print_written,
    settings_of,
    store_and_print,
)


def convert(
    context: typer.Context,
    skill: SkillArgument,
    to: Annotated[Target, typer.Option(help="Store the skill in this form; peft is the folder of a LoRA adapter.")],
    out: Annotated[
        Path, typer.Option("--out", help="Write the skill to this .safetensors file, or to this folder with --to peft.")
    ],
    base: BaseOption = None,
    rank: RankOption = None,
    factors_only: options.FactorsOnlyOption = False,
    whole: Annotated[
        list[str] | None,
        typer.Option("--whole", help="Put tensors of this pattern into a LoRA adapter whole; repeatable."),
    ] = None,
    packing: PackingOption = Packing.groups,
    bits: BitsOption = 4,
    dtype: DtypeOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Store a skill in another form and show what that loses. An adapter's factors are kept as they are.

    [bold]Examples[/bold]

        genepool skill convert reverse.safetensors --to low-rank --rank 16 --out reverse-r16.safetensors

        genepool skill convert my-lora/ --base base/ --to low-rank --out my-lora.safetensors

        genepool skill convert my-lora.safetensors --base base/ --to peft --out my-lora/

        genepool skill convert tuned/ --base base/ --to peft --rank 32 --whole embedding --whole head --out lora/
    """
    options.begin(quiet)
    options.refuse_own_input(out, skill, base)
    from genepool.errors import InputError

    options.only_with(context, to is Target.packed, "--to packed", "packing", "bits")
    options.only_with(context, to not in (Target.dense, Target.sparse), "--to low-rank", "rank")
    options.only_with(context, to is Target.peft, "--to peft", "factors_only", "whole")
    if whole and factors_only:
        raise InputError("contradicts --factors-only", where="--whole", fix="Leave one of them out")
    changes = open_skill(skill, base, allow_pickle)
    if to is Target.peft:
        from genepool.skills import write_peft

        if base is None or changes.base is None:
            raise InputError("is required with --to peft", where="--base", fix="Name the model the skill belongs to")
        if dtype is not None:
            raise InputError(
                "has no effect with --to peft, which keeps the type of the factors",
                where="--dtype",
                fix="Leave it out, or name another form",
            )
        written = write_peft(
            changes, base, out, rank=rank, factors_only=factors_only, whole=whole or (), overwrite=overwrite
        )
        print_written(written, changes, json_output)
        return
    form = form_of(FormName(to.value), dtype, rank, packing, bits)
    store_and_print(changes, out, form, "convert", settings_of(form), overwrite, json_output)
