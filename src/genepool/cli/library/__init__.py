"""`genepool library`: keep skills in one place, find them again, see where they come from, and pass them on."""

from __future__ import annotations

from collections.abc import Callable

import typer

from genepool.cli.library import finding, keeping


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Keep skills in a library: find, compare, trace and share them.")
    named: dict[str, Callable[..., None]] = {
        "init": keeping.init, "add": keeping.add, "list": keeping.list_skills, "show": keeping.show,
        "search": finding.search, "map": finding.draw, "rm": keeping.rm, "check": keeping.check,
        "export": keeping.export, "import": keeping.bring_in,
    }  # fmt: skip
    for name, command in named.items():
        group.command(name)(command)
    app.add_typer(group, name="library")
