"""`genepool verify-run`: take a recorded training step again and compare every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.training


def verify_run(
    run: Annotated[Path, typer.Argument(help="The folder of a training.")],
    step: Annotated[int, typer.Option("--step", min=1, metavar="N", help="Repeat step N, counted from 1.")],
    device: options.DeviceOption = "cpu",
    allow_pickle: options.AllowPickleOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Repeat a step of a training and check that it gives the recorded bits; exit with 1 if not.

    The replay begins at the nearest stored state before the step. It compares every step on the way.

    [bold]Examples[/bold]

        genepool verify-run run --step 150
    """
    options.begin(quiet)
    from genepool.training import verify_step

    verify_step(run, step, device=device, allow_pickle=allow_pickle)
    if json_output:
        options.print_json({"run": str(run), "step": step, "same": True})
    else:
        tables.print_text(f"step {step} has the same bits")
