"""`genepool methods`: the merge methods, when to use which, and what they can be told."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.models


def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method, shown with its parameters; by default all are listed.")
    ] = None,
    plugin: options.PluginOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """List the merge methods.

    [bold]Examples[/bold]

        genepool methods

        genepool methods ties
    """
    options.begin(quiet)
    from genepool.merging import all_methods, find_method

    options.load_plugins(plugin)
    chosen = [find_method(name)] if name else list(all_methods().values())
    if json_output:
        options.print_json({"methods": [method.to_dict() for method in chosen]})
        return
    if name is None:
        heads = ("when to use it", "needs", "source")
        table = tables.TextTable("method", heads, prose=heads)
        for method in chosen:
            table.add_row(method.name, method.when, method.needs(), method.source)
        tables.show(table)
        return
    method = chosen[0]
    tables.print_text(f"  {method.source}\n{method.when}\n\n    {method.formula}\n", bold=method.name)
    columns = ("default", "for", "what it does", "source of the default")
    table = tables.TextTable("parameter", columns, prose=columns)
    for parameter in method.to_dict()["parameters"]:
        default = "required" if parameter["required"] else str(parameter["default"])
        scope = "each model" if parameter["per_model"] else "the merge"
        table.add_row(parameter["name"], default, scope, parameter["doc"], parameter["source"])
    tables.show(table)
    tables.print_comparisons(method.comparisons)
