"""`genepool strategies`: the search algorithms, when to use which, and what they can be told."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.evolution


def strategies(
    name: Annotated[
        str | None, typer.Argument(help="One strategy, shown with its options; by default all are listed.")
    ] = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """List the search strategies of `genepool evolve`.

    [bold]Examples[/bold]

        genepool strategies

        genepool strategies cma_es
    """
    options.begin(quiet)
    from genepool.evolution.representations import describe, kind_for, kinds_for
    from genepool.evolution.strategies import strategies as all_strategies
    from genepool.evolution.strategies import strategy_entry

    chosen = [strategy_entry(name)] if name else list(all_strategies().values())
    if json_output:
        options.print_json({"strategies": [describe(entry) for entry in chosen]})
        return
    if name is None:
        heads = ("varies", "when to use it", "source")
        table = tables.TextTable("strategy", heads, prose=heads)
        for entry in chosen:
            table.add_row(entry.name, kind_for(entry), entry.when, entry.source)
        tables.show(table)
        return
    entry = chosen[0]
    tables.print_text(f"  {entry.source}\n{entry.when}\n", bold=entry.name)
    others = [kind for kind in kinds_for(entry) if kind != kind_for(entry)]
    tables.print_text(f"Varies {kind_for(entry)} unless `vary` says one of: {', '.join(others)}\n")
    if entry.build.steady:
        tables.print_text("Can be `steady`: asked for new candidates while others are being evaluated.\n")
    table = tables.TextTable("option", ["type", "default", "what it does"], prose=("type", "default", "what it does"))
    for parameter in entry.parameters():
        table.add_row(parameter["name"], parameter["type"], str(parameter["default"]), parameter["description"])
    tables.show(table)
    tables.print_comparisons(entry.comparisons)
