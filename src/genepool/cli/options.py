"""The options every command shares, and how results leave a command: one object on stdout or a table."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Same seed, same answer on the same machine.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output path.")]


def begin(quiet: bool = False) -> None:
    """Called first in every command: sets what the shared options mean."""
    from genepool import progress

    progress.set_quiet(quiet)


def print_json(payload: dict[str, Any]) -> None:
    """The `--json` answer: one object that carries its schema number."""
    sys.stdout.write(json.dumps({"schema": 1, **payload}, ensure_ascii=False, allow_nan=False) + "\n")
