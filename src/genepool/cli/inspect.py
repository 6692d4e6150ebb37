"""`genepool inspect`: what models are, whether they fit together, and how far and which way each was moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.merging import Inspection
    from genepool.merging.inspection import Deltas, EffectiveRanks
    from genepool.merging.inspection.result import Row

PANEL = options.Panel.models


def inspect(
    models: options.ModelsArgument,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Name the model the others were fine-tuned from; by default the first one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a page too: one HTML file that opens offline.")
    ] = None,
    rank: Annotated[
        bool,
        typer.Option("--rank/--no-rank", help="Compute the effective rank of the changes, which is the slow part."),
    ] = True,
    all_ranks: Annotated[
        bool, typer.Option("--all-ranks", help="Compute the rank of every matrix, not of at most 12 for each part.")
    ] = False,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what models are, whether they fit together, and how each differs from the base.

    [bold]Examples[/bold]

        genepool inspect model

        genepool inspect base tuned-a tuned-b --out inspect.html

        genepool inspect lora-a lora-b --base base --json

    The first of several models is the base, unless --base names another. The exit code is 1 if the models cannot be
    merged.
    """
    options.begin(quiet)
    from genepool import progress
    from genepool.errors import CheckFailed, InputError
    from genepool.merging import inspect_models
    from genepool.staging import check_file

    if all_ranks and not rank:
        raise InputError("--all-ranks and --no-rank contradict each other", fix="Give one of them")
    if out is not None:
        check_file(out, overwrite=overwrite)
        options.refuse_own_input(out, models, base)
    ranks: Literal["sampled", "all", "none"] = "all" if all_ranks else "sampled" if rank else "none"
    found = inspect_models(models, base, ranks=ranks, allow_pickle=allow_pickle)
    if base is None and found.base is not None:
        progress.message(f"note: {found.base} is taken as the base, being named first; --base names another.")
    if out is not None:
        from genepool.report import write_inspection

        write_inspection(found, out, overwrite=overwrite)
    if json_output:
        options.print_json({"page": str(out) if out else None, **found.to_dict()})
    else:
        _print(found)
        if out is not None:
            tables.print_text(str(out))
    if not found.fits:
        count = len(found.problems) - 1
        more = f" (and {count} more problem{'s' if count > 1 else ''})" if count else ""
        raise CheckFailed(f"{found.problems[0].text}{more}.")


def _print(found: Inspection) -> None:
    from genepool.merging.inspection.wording import cosine_text, share_text, short_labels

    labels = short_labels([facts.name for facts in found.models])
    _show("", _models(found, labels))
    for kind, texts in (("problem", [problem.text for problem in found.problems]), ("note", found.notes)):
        for text in texts:
            tables.print_text(f"{kind}: {text}")
    if found.base is not None and found.fits:
        tables.print_text("The models fit together.")
    deltas, changed = found.deltas, labels[1:]
    if deltas is None:
        return
    _show(
        f"Changes from {deltas.base}, over the {deltas.tensors:,} tensors that all have alike",
        _distance(deltas, found.ranks, changed),
    )
    ranked = ", mean effective rank of matrices where computed" if found.ranks else ""
    if deltas.layers:
        _show(f"By layer: relative norm{ranked}", _layers(deltas, found.ranks, changed))
    if len(changed) > 1:
        _show("Cosine of the changes", _square(changed, deltas.cosine, cosine_text))
        _show(
            "Sign conflict: of the entries that both changed, the share changed in opposite directions",
            _square(changed, deltas.sign_conflict, share_text),
        )


def _show(title: str, table: tables.TextTable) -> None:
    if title:
        tables.print_text(f"\n{title}")
    tables.show(table)


def _models(found: Inspection, labels: Sequence[str]) -> tables.TextTable:
    """One model per column: there are more facts than models."""
    table = tables.TextTable("", labels)
    models = found.models
    table.add_row("architecture", *(facts.architecture or "–" for facts in models))
    table.add_row("layers", *(" + ".join(map(str, facts.layers.values())) or "–" for facts in models))
    table.add_row("tensors", *(f"{facts.tensors:,}" for facts in models))
    table.add_row("parameters", *(f"{facts.parameters:,}" for facts in models))
    for part in dict.fromkeys(part for facts in models for part in facts.parts):
        table.add_row(f"  {part}", *(f"{facts.parts.get(part, (0, 0))[1]:,}" for facts in models))
    table.add_row("size", *(options.size_text(facts.bytes) for facts in models))
    table.add_row("stored as", *(", ".join(facts.stored or facts.dtypes) for facts in models))
    if any(facts.scheme for facts in models):
        table.add_row("quantised", *(facts.scheme or "–" for facts in models))
        table.add_row("read as", *(", ".join(facts.dtypes) for facts in models))
    table.add_row("output head", *(facts.head for facts in models))
    table.add_row("tokenizer", *("there" if facts.tokenizer else "none" for facts in models))
    return table


def _distance(deltas: Deltas, ranks: EffectiveRanks | None, labels: Sequence[str]) -> tables.TextTable:
    from genepool.merging.inspection.wording import rank_text, relative_text, share_text

    table = tables.TextTable("", labels)
    table.add_row("relative norm, in all", *map(relative_text, deltas.relative()))
    for part in deltas.parts:
        table.add_row(f"  {part}", *map(relative_text, deltas.relative(part=part)))
    table.add_row("entries changed", *map(share_text, deltas.moved))
    for part in deltas.parts if ranks is not None else ():
        if ranks is not None and (row := ranks.mean(part=part)):
            side = max(matrix.side for matrix in ranks.matrices if matrix.part == part)
            table.add_row(f"effective rank, {part} (at most {side:,})", *map(rank_text, row))
    return table


def _layers(deltas: Deltas, ranks: EffectiveRanks | None, labels: Sequence[str]) -> tables.TextTable:
    from genepool.merging.inspection.wording import rank_text, relative_text

    several = len({stack for stack, _ in deltas.layers}) > 1
    table = tables.TextTable("layer", labels)
    for stack, layer in deltas.layers:
        cells = [relative_text(value) for value in deltas.relative(layer=(stack, layer))]
        if ranks is not None and (row := ranks.mean(layer=(stack, layer))):
            cells = [f"{cell}, {rank_text(value)}" for cell, value in zip(cells, row, strict=True)]
        table.add_row(f"{stack} {layer}" if several else str(layer), *cells)
    return table


def _square(labels: Sequence[str], matrix: Sequence[Row], shown: Callable[[float | None], str]) -> tables.TextTable:
    table = tables.TextTable("", labels)
    for i, row in enumerate(matrix):
        table.add_row(labels[i], *("" if i == j else shown(value) for j, value in enumerate(row)))
    return table
