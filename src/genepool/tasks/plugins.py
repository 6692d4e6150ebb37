"""A user's own file of merge methods and metrics, named by `--plugin`: both kinds come in here.

Uses the registries of merging and of metrics; the command line loads plugins, and so do the workers of a study.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from genepool import plugins
from genepool.merging.registry import METHODS
from genepool.tasks.metrics import METRICS, find_metric

if TYPE_CHECKING:
    from genepool.merging import Method
    from genepool.tasks.task import Task

_DOORS = (METHODS, METRICS)


def load_plugin(path: str | Path) -> list[str]:
    """Runs a Python file that registers merge methods, metrics, or both, and returns their names.

    Args:
        path: the file; its code runs with all rights of this process.

    Raises:
        InputError: there is no such file, it fails, it defines nothing, or a name is taken.
    """
    return plugins.load(path, _DOORS)


def plugins_behind(method: Method | None, tasks: Iterable[Task]) -> tuple[Path, ...]:
    """The files that a merge method and the metrics of tasks came from: what a worker process must load too."""
    judges = [find_metric(task.settings.metric).judge for task in tasks if task.asker is None]
    found = [plugins.plugin_of(thing) for thing in (type(method), *judges) if thing is not None]
    return tuple(dict.fromkeys(one.path for one in found if one is not None))


def load_missing(files: Iterable[Path]) -> None:
    """Loads the plugins that this process does not have yet."""
    for file in files:
        if not plugins.is_loaded(file):
            load_plugin(file)
