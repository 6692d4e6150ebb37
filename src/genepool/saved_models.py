"""Folders that stand wherever a model is named although they hold no checkpoint, found by a file in them.

A room that saves such folders has a module `saved_model.py`, found by being there. It has `MARKER`, the file's name:
that of the room and `.json`, so that no room is imported for a folder of another. It has `open_source(folder,
allow_pickle)`, which gives a `Source` to be asked, and `open_weights(folder, allow_pickle)`, which gives `Weights` or
says why there are none. `FOLDER#TASK` names what such a folder is for one task. So `open_model` and the opener of
weights need not know these rooms.
"""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path
from types import ModuleType

_MODULE = "saved_model"
#: Stands between a folder that answers each task by weights of its own, and the task.
TASK_MARK = "#"


def saved_model(name: str | Path) -> ModuleType | None:
    """The module that opens the folder of this name; None where it is no such folder."""
    try:
        path, _ = folder_and_task(name)
        if not path.is_dir():
            return None
        rooms = (room for room in _rooms() if (path / f"{room}.json").is_file())
        return next((importlib.import_module(f"genepool.{room}.{_MODULE}") for room in rooms), None)
    except (OSError, ValueError):
        # Too long for a path, or not one at all.
        return None


def folder_and_task(name: str | Path) -> tuple[Path, str | None]:
    """The folder that a name means, and the task behind `#`; a folder that is called so itself is taken as it is."""
    path = Path(os.path.expanduser(name))
    folder, mark, task = path.name.rpartition(TASK_MARK)
    if not mark or not folder or os.path.exists(path):
        return path, None
    return path.with_name(folder), task


@functools.cache
def _rooms() -> tuple[str, ...]:
    import genepool

    return tuple(
        sorted(file.parent.name for place in genepool.__path__ for file in Path(place).glob(f"*/{_MODULE}.py"))
    )
