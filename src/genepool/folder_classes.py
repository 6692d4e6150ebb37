"""The classes that the files of a folder define: what registries share whose things are found by being there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, TypeVar, cast

from genepool.errors import InputError, nearest


class _HasName(Protocol):
    name: ClassVar[str]


_Kind = TypeVar("_Kind")
_NamedKind = TypeVar("_NamedKind", bound=_HasName)


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


def classes_by_name(package: str, kind: Callable[..., _NamedKind]) -> dict[str, type[_NamedKind]]:
    """The classes of a kind that a package's files define, by their `name`, in alphabetical order; see `classes_of`."""
    return {one.name: one for one in sorted(classes_of(package, kind), key=lambda one: one.name)}


def of_name(known: Mapping[str, _Kind], what: str, name: str, where: str) -> _Kind:
    """What a registry has under a name.

    Args:
        known: the registry.
        what: what its things are called, for errors.
        name: the one that is looked for.
        where: the option, or the file and its key, that names it.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    if name not in known:
        raise InputError(f"there is no {what} '{name}'", where=where, fix=nearest(name, known))
    return known[name]
