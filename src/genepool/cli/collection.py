"""`genepool collection`: what a study gathered beyond its winner, and any candidate of it as a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.evolution


def collection(
    study: Annotated[Path, typer.Argument(help="The folder of a study, as `genepool evolve --out` wrote it.")],
    write: Annotated[
        str | None, typer.Option("--write", help='Write this candidate: "GENERATION.INDEX" or "winner".')
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the candidate of --write to this folder.")] = None,
    as_lora: options.AsLoraOption = None,
    plugin: options.PluginOption = None,
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """List the candidates of a study's front, archive or population, or write one of them as a model.

    [bold]Examples[/bold]

        genepool collection run

        genepool collection run --write 12.3 --out model

        genepool collection run --write winner --out adapter --as-lora 16

    With --as-lora, a candidate that was bred from adapters keeps its factors if their rank is at most RANK. Other
    candidates keep the RANK largest singular directions; the output says what that loses.
    """
    options.begin(quiet)
    options.refuse_own_input(out, study, plugin, trust_tasks)
    from genepool.errors import InputError
    from genepool.evolution.collection import read_collection, write_candidate
    from genepool.evolution.permissions import Permissions

    options.load_plugins(plugin)
    if write is not None:
        if out is None:
            raise InputError("is required with --write", where="--out", fix="Name a folder")
        trust = Permissions(allow_pickle, tuple(trust_tasks or ()))
        verdict, adapter = write_candidate(study, write, out, rank=as_lora, overwrite=overwrite, trust=trust)
        if json_output:
            found = {"written": str(out), "name": write, "fitness": verdict.fitness, "valid": verdict.valid}
            if adapter is not None:
                found |= {"relative_error": adapter.error, "left_out": adapter.left_out}
            options.print_json(found)
        else:
            lost = "" if adapter is None else f" as an adapter, relative error {adapter.error:.3g}"
            lost += f"; no adapter holds {adapter.left_out}" if adapter is not None and adapter.left_out else ""
            tables.print_text(f"{write}, fitness {verdict.fitness:.4f} on validation, written to {out}{lost}")
        return
    for given, flag in ((as_lora, "--as-lora"), (out, "--out")):
        if given is not None:
            raise InputError("has no effect without --write", where=flag, fix="Name a candidate with --write")
    rows = read_collection(study)
    if json_output:
        options.print_json({"members": [asdict(row) for row in rows]})
        return
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    table = tables.TextTable("candidate", ["in", *names])
    for row in rows:
        table.add_row(row.name, row.group, *(f"{row.scores[n]:.3f}" if n in row.scores else "" for n in names))
    tables.show(table)
    if not rows:
        tables.print_text("this strategy gathers nothing beyond its winner")
