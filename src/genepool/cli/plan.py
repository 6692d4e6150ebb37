"""`genepool plan`: what a recipe will read, compute and write, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe file: genepool's own or mergekit's.")],
    all_tensors: Annotated[
        bool, typer.Option("--all", help="Show every tensor, not one line per layer group.")
    ] = False,
    allow_pickle: options.AllowPickleOption = False,
    plugin: options.PluginOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Check a recipe and show what it will read, compute and write. Reads headers only.

    [bold]Examples[/bold]

        genepool plan recipe.yaml

        genepool plan recipe.yaml --json | jq .peak_bytes
    """
    options.begin(quiet)
    from genepool.merging import load_recipe, plan_merge
    from genepool.merging.nesting import describe

    options.load_plugins(plugin)
    shown = describe(plan_merge(load_recipe(recipe), allow_pickle=allow_pickle))
    if json_output:
        options.print_json(shown)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("tensor", "part", "shape", "stored", "inputs", "parameters", title=f"{recipe}: {shown['method']}")
    steps = shown["steps"]
    chosen = steps if all_tensors else [step for step in steps if step["layer"] in (None, 0)]
    for step in chosen:
        values = [f"{key} {_text(value)}" for key, value in step["parameters"].items()]
        own: dict[str, list[object]] = {}
        for entry in step["model_parameters"]:
            for key, value in entry.items():
                own.setdefault(key, []).append(value)
        values = [f"{key} {', '.join(map(_text, row))}" for key, row in own.items()] + values
        inputs = f"{len(step['inputs'])}{' + base' if step['base'] else ''}"
        table.add_row(step["tensor"], step["part"], str(step["shape"]), step["dtype"], inputs, "; ".join(values))
    console.print(table)
    if len(chosen) < len(steps):
        console.print(f"and the same for {len(steps) - len(chosen)} tensors of further layers (--all shows them)")
    _print_inner(console, shown, "")
    console.print(
        f"{len(steps)} tensors in {shown['passes']} pass{'es' if shown['passes'] > 1 else ''}: reads "
        f"{options.size_text(shown['bytes_read'])}, writes {options.size_text(shown['bytes_written'])}, "
        f"works in at most {options.size_text(shown['peak_bytes'])} per thread"
    )


def _print_inner(console: Console, shown: dict[str, Any], indent: str) -> None:
    for name, inner in shown.get("inner", {}).items():
        passes = f"{inner['passes']} pass{'es' if inner['passes'] > 1 else ''}"
        console.print(f"{indent}{name}: {inner['method']} in {passes}, computed as it is read", markup=False)
        _print_inner(console, inner, indent + "  ")


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
