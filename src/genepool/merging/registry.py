"""Every merge method by name: the package's own, found by being there, and those of installed packages.

A package offers its methods by the entry point group `genepool.methods`; a lone file comes in by `genepool.plugins`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib.metadata import entry_points

from genepool import progress
from genepool.errors import InputError, nearest
from genepool.merging.method import Method
from genepool.plugins import Door

ENTRY_POINTS = "genepool.methods"

_registry: dict[str, Method] = {}
_REQUIRED_ATTRIBUTES = ("name", "source", "when", "formula", "inputs", "base")


def register(method: type[Method]) -> type[Method]:
    """Makes a method available under its name; used as a decorator.

    Raises:
        InputError: a declaration is missing, or another module has a method of this name.
    """
    if missing := [name for name in _REQUIRED_ATTRIBUTES if not hasattr(method, name)]:
        raise InputError(f"the merge method {method.__name__} has no {missing[0]}", fix=f"Add `{missing[0]} = ...`")
    known = _registry.get(method.name)
    if known is not None and type(known).__module__ != method.__module__:
        raise InputError(f"there is already a merge method '{method.name}'", fix="Choose another name")
    _registry[method.name] = method()
    return method


def all_methods() -> dict[str, Method]:
    """Every registered method by name, built-in ones and those of installed packages loaded."""
    from genepool.merging import methods

    for module in pkgutil.iter_modules(methods.__path__):
        importlib.import_module(f"{methods.__name__}.{module.name}")
    load_entry_points()
    return dict(sorted(_registry.items()))


def find_method(name: str, where: str = "") -> Method:
    """The method of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    # A search asks for the same one thousands of times.
    if name in _registry:
        return _registry[name]
    methods = all_methods()
    if name not in methods:
        raise InputError(f"unknown merge method '{name}'", where=where, fix=nearest(name, methods))
    return methods[name]


@functools.cache
def load_entry_points() -> None:
    """Loads every installed package's entry points of the group, once; one that fails is named and left out."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            owner = point.dist.name if point.dist else point.value
            progress.message(f"warning: merge method '{point.name}' of the package {owner} cannot be loaded: {error}")


METHODS = Door("a merge method", "Put @register above the class of a method", all_methods)
