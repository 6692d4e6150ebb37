"""Folders that stand wherever a model is named although they hold no checkpoint, found by a file in them.

A room that saves such folders has a module `saved_model.py`, found by being there, with `MARKER` (the file's name),
`open_source(folder, allow_pickle)`, which gives a `Source` to be asked, and `open_weights(folder, allow_pickle)`, which
gives `Weights` or says why there are none. So `open_model` and `open_weights` need not know these rooms.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType

_MODULE = "saved_model"


def saved_model(name: str | Path) -> ModuleType | None:
    """The module that opens the folder of this name; None where it is no such folder."""
    path = Path(name).expanduser()
    try:
        if not path.is_dir():
            return None
        return next((module for module in _modules() if (path / module.MARKER).is_file()), None)
    except (OSError, ValueError):
        # Too long for a path, or not one at all.
        return None


@functools.cache
def _modules() -> tuple[ModuleType, ...]:
    import genepool

    rooms = sorted(file.parent.name for place in genepool.__path__ for file in Path(place).glob(f"*/{_MODULE}.py"))
    return tuple(importlib.import_module(f"genepool.{room}.{_MODULE}") for room in rooms)
