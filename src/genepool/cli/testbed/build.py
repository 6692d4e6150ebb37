"""`genepool testbed build`: train a small base and its specialists on the spot, with tasks that measure them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from genepool.cli import options, tables


def build(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder to build; it appears whole or not at all.")
    ] = None,
    out: options.OutInsteadOption = None,
    bed: Annotated[
        str,
        typer.Option(
            help="Build this testbed: text, untagged, pairs, sentences, digits, policies, streams, series; see below."
        ),
    ] = "text",
    tiny: Annotated[bool, typer.Option("--tiny", help="Use a smaller model and easier tasks, for tests.")] = False,
    regime: Annotated[
        str,
        typer.Option(
            help="Train skills that the base has in part, which merge (elicit), or new ones, which do not (acquire)."
        ),
    ] = "elicit",
    skills: Annotated[
        str | None,
        typer.Option(
            help="Train these skills, with commas between; by default four of strings, or all of another bed."
        ),
    ] = None,
    seed: options.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Train a base model and specialists of it (full and LoRA), and write the tasks that measure them.

    [bold]Examples[/bold]

        genepool testbed build bed

        genepool testbed build bed --tiny --seed 1

        genepool testbed build bed --skills reverse,sort,rotate,mask

        genepool testbed build digits --bed digits

        genepool testbed build sizes --bed text_sizes

        genepool testbed build pairs --bed pairs --tiny

        genepool testbed build policies --bed policies --tiny

        genepool testbed build landers --bed policies --skills thrifty,swift --tiny

        genepool testbed build streams --bed streams

        genepool testbed build series --bed series

    DIR gets base, full/<skill>, lora/<skill>, tasks/<skill>, tasks/generic and manifest.json. It takes two minutes on
    two cores, half a minute with --tiny. Untagged takes some four times as long; the digits, which have no adapters,
    take one minute. The same command again returns at once; after a kill it continues. Of two sizes, the small base
    and its specialists lie in DIR/small.

    text: strings, a Llama. text_sizes: two Llamas. untagged: worked examples instead of tags. pairs: with tasks of two
    skills. sentences: texts of installed packages, all-MiniLM-L6-v2. digits: images, a ViT. policies: poles on a cart,
    or landers (thrifty, swift), which need Box2D. streams: the ViT, and DIR/streams of spoilt digits; that of
    streams_open never saw 7 to 9, and streams_conv has a convolutional network. streams_text: a Llama, and texts whose
    surface drifts. series: a linear forecaster, and two series, of which one drifts; series_real: real ones.
    """
    options.begin(quiet)
    folder = options.place(folder, out, "DIR")
    from genepool import testbed

    names = None if skills is None else [name.strip() for name in skills.split(",") if name.strip()]
    began = time.monotonic()
    built = testbed.build(folder, bed=bed, tiny=tiny, regime=regime, skills=names, seed=seed, overwrite=overwrite)
    if json_output:
        options.print_json(
            {
                "folder": str(built.folder),
                "cached": built.cached,
                "base": str(built.base),
                "full": {name: str(path) for name, path in built.full.items()},
                "lora": {name: str(path) for name, path in built.lora.items()},
                "tasks": str(built.tasks),
                "manifest": built.manifest,
            }
        )
        return
    _print_scores(built.manifest["models"])
    seconds = f"{time.monotonic() - began:.0f} s"
    tables.print_text(f"{built.folder}: {'already built, untouched' if built.cached else f'built in {seconds}'}")


def _print_scores(models: dict[str, dict[str, Any]]) -> None:
    tasks = list(next(iter(models.values()))["scores"])
    width, column = max(map(len, models)), max(11, *(len(task) + 2 for task in tasks))
    tables.print_text(" " * width + "".join(f"{task:>{column}}" for task in tasks))
    for name, model in models.items():
        tables.print_text(f"{name:<{width}}" + "".join(f"{model['scores'][task]:{column}.2f}" for task in tasks))
