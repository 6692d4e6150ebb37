"""Refuses an output that would replace what it is made from.

Every command that replaces outputs asks here before anything is read or staged; so do the functions behind them, which
also know what recipes, studies and plans name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from genepool.errors import InputError

# Pages are drawn beside what they tell of, and nothing is read from them.
_PAGES = (".html", ".md", ".svg")
_FIX = "Name another output"


def refuse_own_input(out: str | Path, inputs: Iterable[str | Path], *, inside: bool = True) -> None:
    """Refuses an output path that is an input, a folder that holds one, or a file of an input folder.

    Args:
        out: where the output is to appear.
        inputs: files, folders and names of models, such as BASE+SKILL. What is not on the disk is skipped.
        inside: refuse a file of an input folder too. What a command alone writes in such a folder it may replace.

    Raises:
        InputError: replacing `out` would remove an input or a part of it.
    """
    place = Path(os.path.realpath(out))
    for name, path in ((one, path) for one in inputs for path in _found(str(one))):
        if path == place:
            raise InputError(f"the output is one of the inputs, {name}", where=out, fix=_FIX)
        if path.is_relative_to(place):
            raise InputError(f"{name} lies in the output folder", where=out, fix=_FIX)
        if inside and place.is_relative_to(path) and place.is_file() and place.suffix not in _PAGES:
            raise InputError(f"the output is a file of the input {name}", where=out, fix=_FIX)


def _found(name: str) -> Iterator[Path]:
    """Where a name is on the disk; of a name with "+" that is no path itself, where its parts are."""
    try:
        path = Path(name).expanduser()
        if os.path.lexists(path):
            # Removing a link among the files to replace removes an input's name as surely as its file.
            yield Path(os.path.realpath(path.parent)) / path.name
            yield Path(os.path.realpath(path))
        elif "+" in name:
            for part in name.split("+"):
                yield from _found(part)
    except (OSError, ValueError, RuntimeError):
        return
