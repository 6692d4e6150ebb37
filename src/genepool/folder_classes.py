"""The classes that the files of a folder define: what registries share whose things are found by being there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import TypeVar, cast

_Kind = TypeVar("_Kind")


def classes_of(package: str, kind: Callable[..., _Kind]) -> list[type[_Kind]]:
    """The classes of a kind that a package's files define, by file and in the order in which they stand there.

    Abstract ones, the kind itself and what a file imports from others are left out.

    Args:
        package: its name; every file of it is imported.
        kind: the class that they are subclasses of. (Typed as what makes one, because `type` would mean a class that is
            not abstract.)
    """
    found: list[type[_Kind]] = []
    base = cast(type[_Kind], kind)
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        own = vars(importlib.import_module(module.name))
        found += [
            one
            for one in own.values()
            if isinstance(one, type)
            and issubclass(one, base)
            and one is not base
            and not inspect.isabstract(one)
            and one.__module__ == module.name
        ]
    return found
