"""`genepool demo`: the whole story on real models, in minutes, ending on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from genepool.cli import options, tables

PANEL = options.Panel.start


def demo(
    folder: Annotated[
        Path | None, typer.Argument(help="The folder to write; a demo that was stopped continues there.")
    ] = None,
    out: options.OutInsteadOption = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Use a smaller budget and skills that agree: about a minute, for tests.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Use larger models and a larger budget: some ten minutes.")
    ] = False,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluate N candidates in each search; by default 300, with --tiny 60."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Evaluate candidates in N processes.")] = 2,
    seed: options.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Train small specialists, merge them by every method, breed a better merge, and show what was gained.

    [bold]Example[/bold]

        genepool demo demo/

        genepool demo full/ --full

    It takes under three minutes on two cores, most of them training and searching. Ctrl-C at any moment: the same
    command goes on, and run once more it asks nothing again.
    """
    options.begin(quiet)
    folder = options.place(folder, out, "FOLDER")
    from genepool import progress
    from genepool.errors import InputError

    if tiny and full:
        raise InputError("--tiny and --full together", where="--full", fix="Leave one of them out")
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, expected a folder", where=folder, fix="Name a folder")
    with progress.bar("loading torch"):
        from genepool import measure
        from genepool.demo import run_demo
        from genepool.demo.search import GENERIC

    size: Literal["short", "tiny", "full"] = "tiny" if tiny else "full" if full else "short"
    result = run_demo(folder, size=size, evaluations=budget, workers=workers, seed=seed)
    table, skills = result.table, result.skills
    rivals = {"best static merge": result.best_static, "random search": result.random}
    ahead = {
        what: {
            "skills": measure.mean_difference(table, result.evolved, rival, skills),
            GENERIC: measure.mean_difference(table, result.evolved, rival, [GENERIC]),
        }
        for what, rival in rivals.items()
    }
    if json_output:
        options.print_json(
            {
                "report": str(result.report),
                "minutes": result.minutes,
                "headline": result.headline,
                "best_static": result.best_static,
                "results": {m: {t: table.mean(m, t) for t in table.tasks} for m in table.models},
                "evolved_minus": {
                    what: {"model": rivals[what], **{key: value._asdict() for key, value in row.items()}}
                    for what, row in ahead.items()
                },
            }
        )
        return
    tables.print_means(table, skills, GENERIC)
    for what, row in ahead.items():
        parts = [
            f"{key} {100 * d.difference:+.1f} points [{100 * d.lo:+.1f}, {100 * d.hi:+.1f}]" for key, d in row.items()
        ]
        tables.print_text(f"evolved against the {what} ({rivals[what]}): " + ", ".join(parts))
    tables.print_text(f"\n{result.headline}\n{result.minutes:.1f} minutes; the page: {result.report}")
