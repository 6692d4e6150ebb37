"""`genepool export`: a model or an adapter as one file for llama.cpp, or a composition or a prompt as PEFT's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.models


def export(
    model: options.ModelArgument,
    out: Annotated[Path, typer.Argument(help="The file, ending in .gguf; with --type peft, the folder.")],
    stored_type: Annotated[
        str,
        typer.Option(
            "--type", help="Store matrices as f32, f16, bf16 or q8_0; or peft: a composition or a prompt for PEFT."
        ),
    ] = "f16",
    base: Annotated[
        str | None,
        typer.Option(help="Write MODEL, an adapter or a skill of this base, as a LoRA adapter for llama.cpp."),
    ] = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a model as a GGUF file for llama.cpp, or a composition or a prompt as files that PEFT loads.

    [bold]Examples[/bold]

        genepool export merged/ merged.gguf --type q8_0

        genepool export base+skill.safetensors skilled.gguf

        genepool export adapter/ adapter.gguf --base base

        genepool export composition/ for-peft/ --type peft

        genepool export base+prefix/form for-peft/ --type peft
    """
    options.begin(quiet)
    options.refuse_own_input(out, model, base)
    if stored_type == "peft":
        _for_peft(model, out, base, allow_pickle, overwrite, json_output)
        return
    from genepool.weights import open_weights
    from genepool.weights.gguf.adapter_exporting import export_adapter
    from genepool.weights.gguf.exporting import export_model
    from genepool.weights.gguf.writing import check_target
    from genepool.weights.opening import open_change

    check_target(out, stored_type, overwrite=overwrite)
    if base is None:
        weights = open_weights(model, allow_pickle=allow_pickle)
        written = export_model(weights, out, stored_type, overwrite=overwrite)
    else:
        opened = open_weights(base, allow_pickle=allow_pickle)
        change = open_change(model, opened, allow_pickle=allow_pickle)
        written = export_adapter(change, opened, out, stored_type, overwrite=overwrite)
    if json_output:
        options.print_json(written.to_dict())
        return
    tables.print_text(
        f"{written.path}: {written.kind}, {written.tensors:,} tensors, {options.size_text(written.nbytes)}"
    )


def _for_peft(model: str, out: Path, base: str | None, allow_pickle: bool, overwrite: bool, json_output: bool) -> None:
    from genepool.composition.peft_export import export_peft

    written = export_peft(model, out, base=base, allow_pickle=allow_pickle, overwrite=overwrite)
    if json_output:
        options.print_json(written.to_dict())
        return
    tables.print_text(f"{written.path}: {written.kind}")
