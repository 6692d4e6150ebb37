"""`genepool measure`: what outcomes tell beyond a mean: transfer, knowledge, mixes, forgetting, prediction."""

from __future__ import annotations

from collections.abc import Callable

import typer

from genepool.cli.measure import lasting, predicting, sharing


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True,
        help="What outcomes tell beyond a mean: transfer, complementary knowledge, mixes of skills, forgetting.",
    )
    commands: tuple[Callable[..., None], ...] = (
        sharing.transfer, sharing.knowledge, sharing.mix, sharing.consistency, lasting.continual, lasting.lifelong,
        predicting.curve, predicting.passes, predicting.jump,
    )  # fmt: skip
    for command in commands:
        group.command(command.__name__)(command)
    app.add_typer(group, name="measure")
