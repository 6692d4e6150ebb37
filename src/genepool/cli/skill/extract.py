"""`genepool skill extract`: the difference between a fine-tune and its base, as a skill."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from genepool.cli import options
from genepool.cli.skill.common import (
    BitsOption,
    DescriptionOption,
    DtypeOption,
    FormName,
    LicenceOption,
    NameOption,
    OutOption,
    Packing,
    PackingOption,
    RankOption,
    form_of,
    settings_of,
    store_and_print,
)


class Treatment(StrEnum):
    """What becomes of EMA copies."""

    drop = "drop"
    use = "use"


def extract(
    context: typer.Context,
    tuned: Annotated[str, typer.Argument(help="The fine-tune: a folder, a file, a hub name or BASE+ADAPTER.")],
    base: Annotated[str, typer.Option(help="Name the model it was fine-tuned from.")],
    out: OutOption,
    to: Annotated[
        FormName | None, typer.Option(help="Store the skill in this form; by default low-rank with --rank, else dense.")
    ] = None,
    rank: RankOption = None,
    packing: PackingOption = Packing.groups,
    bits: BitsOption = 4,
    dtype: DtypeOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Take only tensors of this pattern: a glob, a role, a part or a module's path."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Keep the tensors of this pattern as they are in the base.")
    ] = None,
    ema: Annotated[
        Treatment | None,
        typer.Option(help="Use the fine-tune's EMA copies in place of its weights, or drop them."),
    ] = None,
    name: NameOption = "",
    description: DescriptionOption = "",
    licence: LicenceOption = "",
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write the difference between a fine-tune and its base as a skill.

    [bold]Examples[/bold]

        genepool skill extract tuned/ --base base/ --out reverse.safetensors

        genepool skill extract tuned/ --base base/ --rank 32 --out reverse-r32.safetensors

        genepool skill extract tuned/ --base base/ --only '*.mlp.*' --exclude head --out mlp.safetensors

        genepool skill extract unet.safetensors --base base.safetensors --ema use --out averaged.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, tuned, base)
    options.only_with(context, to is FormName.packed, "--to packed", "packing", "bits")
    options.only_with(context, to not in (FormName.dense, FormName.sparse), "--to low-rank", "rank")
    from genepool.weights import open_change, open_weights

    opened = open_weights(base, allow_pickle=allow_pickle)
    changes = open_change(tuned, opened, allow_pickle=allow_pickle, ema=None if ema is None else ema.value)
    chosen: dict[str, Any] = {} if ema is None else {"ema": ema.value}
    if only or exclude:
        from genepool.weights.patterns import some_of

        changes = some_of(changes, only or (), exclude or ())
        chosen |= {key: given for key, given in (("only", only), ("exclude", exclude)) if given}
    form = form_of(to or (FormName.low_rank if rank else FormName.dense), dtype, rank, packing, bits)
    words = {"name": name, "description": description, "licence": licence}
    settings = {**settings_of(form), **chosen}
    store_and_print(changes, out, form, "extract", settings, overwrite, json_output, words=words)
