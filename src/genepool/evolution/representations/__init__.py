"""The list of what a study can vary: one file of this folder for each kind of genome, found by itself.

A study names a kind under `vary`, or leaves it to its strategy. Which kinds suit a strategy follows from what the
strategy proposes, points or births; the study file, the run and the command line ask here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from genepool.errors import InputError, nearest
from genepool.evolution.representations.base import Representation, Vary
from genepool.evolution.strategies import StrategyEntry, strategies

if TYPE_CHECKING:
    from genepool.evolution.strategies.base import Proposals

__all__ = [
    "Representation",
    "Vary",
    "describe",
    "kind_for",
    "kinds_for",
    "register",
    "representation",
    "representations",
    "strategies_for",
]

#: What a study varies that names no kind, by what its strategy proposes, unless the strategy has a usual kind.
USUAL: dict[Proposals, str] = {"points": "merge_parameters", "births": "models_or_adapters"}

_registry: dict[str, type[Representation[Any, Any]]] = {}
_Class = TypeVar("_Class", bound=type[Representation[Any, Any]])


def register(kind: str, *, noun: str) -> Callable[[_Class], _Class]:
    """Class decorator that puts a representation on the list.

    Args:
        kind: what a study file calls it.
        noun: what is varied, in the plural, for sentences.
    """

    def add(build: _Class) -> _Class:
        if kind in _registry and _registry[kind].__qualname__ != build.__qualname__:
            raise ValueError(f"two representations are called {kind!r}")
        build.kind, build.noun = kind, noun
        _registry[kind] = build
        return build

    return add


def representations() -> dict[str, type[Representation[Any, Any]]]:
    """Every representation by kind, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def representation(kind: str, *, where: str = "") -> type[Representation[Any, Any]]:
    """The representation called `kind`.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = representations()
    if kind not in known:
        raise InputError(f"unknown kind '{kind}'", where=where, fix=nearest(kind, known))
    return known[kind]


def kind_for(strategy: StrategyEntry) -> str:
    """What a study with this strategy varies when it names no kind."""
    return strategy.usual or USUAL[strategy.proposals]


def kinds_for(strategy: StrategyEntry) -> list[str]:
    """Every kind that a strategy can search, in alphabetical order."""
    return [kind for kind, one in representations().items() if one.proposals == strategy.proposals]


def strategies_for(kind: str) -> list[str]:
    """Names of the strategies that can search a kind, in alphabetical order."""
    proposals = representation(kind).proposals
    return [name for name, entry in strategies().items() if entry.proposals == proposals]


def describe(strategy: StrategyEntry) -> dict[str, Any]:
    """One row of `genepool strategies --json`: the strategy, and what it can vary."""
    return {**strategy.describe(), "varies": kind_for(strategy), "representations": kinds_for(strategy)}
