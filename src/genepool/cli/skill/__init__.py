"""`genepool skill`: take what a fine-tune learned out of it, store it small, work on it, and put it back on a base."""

from __future__ import annotations

from collections.abc import Callable

import typer

from genepool.cli.skill import storing, working


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help="Extract a skill from a fine-tune, store it small, work on it, apply it to its base."
    )
    commands: tuple[Callable[..., None], ...] = (
        storing.extract, working.apply, working.show, storing.convert, storing.compress, storing.localise,
        working.project, working.drop, working.scale, working.negate,
    )  # fmt: skip
    for command in commands:
        group.command(command.__name__)(command)
    group.command("sum")(working.add_up)
    app.add_typer(group, name="skill")
