"""`genepool shuffle`: a recipe whose layers are drawn from several models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.models


def shuffle(
    models: Annotated[list[str], typer.Argument(help="The models: folders, hub names, BASE+ADAPTER or BASE+SKILL.")],
    out: Annotated[Path, typer.Option("--out", help="Write the recipe to this .yaml file.")],
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Draw a layer from this model so often; once for each model, in their order."),
    ] = None,
    full_random: Annotated[
        bool,
        typer.Option(
            "--full-random", help="Draw any layers in any order; --weight is the part that a model gives of its own."
        ),
    ] = False,
    seed: options.SeedOption = 0,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a recipe that takes each layer from a model drawn at random.

    The first model of the stack gives the embeddings, the last one the final norm and the head.

    [bold]Examples[/bold]

        genepool shuffle one/ two/ --out shuffled.yaml

        genepool shuffle one/ two/ --weight 3 --weight 1 --seed 7 --out shuffled.yaml

        genepool shuffle one/ two/ --full-random --weight 0.75 --weight 0.75 --out deeper.yaml

        genepool merge shuffled.yaml merged/
    """
    options.begin(quiet)
    options.refuse_own_input(out, models)
    import yaml

    from genepool import staging
    from genepool.merging.shuffling import placed, shuffled_recipe
    from genepool.weights import open_weights

    staging.check_free(out, overwrite=overwrite)
    opened = {placed(name): open_weights(name, allow_pickle=allow_pickle) for name in models}
    recipe = shuffled_recipe(opened, weight or (), full_random=full_random, seed=seed)
    staging.write_text(out, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), overwrite=overwrite)
    runs = [source for part in recipe["slices"] for source in part["sources"]]
    if json_output:
        options.print_json({"out": str(out), "recipe": recipe})
        return
    depth = sum(one["layer_range"][1] - one["layer_range"][0] for one in runs)
    tables.print_text(f"{depth} layers in {len(runs)} pieces; written to {out}\ngenepool merge {out} merged")
