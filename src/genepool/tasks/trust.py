"""Which files of tasks may run code: those that the command line, or the caller, names for it, and no others."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from genepool.errors import InputError


def check_trusted(path: Path, trusted: Collection[str | Path], what: str) -> None:
    """Refuses a file that would run code and that nobody allowed to.

    Args:
        path: the file.
        trusted: the files that may.
        what: what it does, as a clause.

    Raises:
        InputError: it is not among them.
    """
    if path.resolve() not in {Path(one).resolve() for one in trusted}:
        raise InputError(what, where=path, fix=f"Read it, and if you trust it, pass --trust-tasks {path}")
