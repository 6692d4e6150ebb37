"""The list of search algorithms: one file of this folder each, found by itself.

Every one is a subclass of what `genepool.evolution.strategies.base` holds; none knows of models, tasks or
files. The study's loop (`genepool.evolution.loop`) is what drives one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from genepool.errors import InputError, nearest
from genepool.evolution.strategies.base import (
    Breeder,
    Count,
    Evidence,
    Proposals,
    Strategy,
    StrategyOptions,
    default_population,
)
from genepool.faithful import HeldAgainst, recorded
from genepool.schema import described_options, validate

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Breeder",
    "Count",
    "Evidence",
    "Proposals",
    "Strategy",
    "StrategyEntry",
    "StrategyOptions",
    "default_population",
    "make_breeder",
    "make_strategy",
    "register",
    "strategies",
    "strategy_entry",
]


@dataclass(frozen=True)
class StrategyEntry:
    """One registered strategy.

    Attributes:
        name: what a study file calls it.
        title: what people call it.
        source: where the algorithm and its defaults come from.
        when: one sentence on when to use it.
        needs: what it has to be told about each candidate: "fitness", and "tasks" (its mean on every task) or
            "examples" (its score on every example).
        passes: how often each candidate is scored on the validation examples.
        usual: the kind of genome that a study with it varies when it names none; empty for the usual one of its
            proposals (`genepool.evolution.representations`).
        build: the class.
    """

    name: str
    title: str
    source: str
    when: str
    needs: tuple[str, ...]
    passes: int
    usual: str
    build: type[Strategy[Any]] | type[Breeder[Any]]

    @property
    def proposals(self) -> Proposals:
        """What it proposes: points of the unit cube, or births of models."""
        return "births" if issubclass(self.build, Breeder) else "points"

    def parameters(self) -> list[dict[str, Any]]:
        """The options as plain data: name, type, default, meaning."""
        return described_options(self.build.Options)

    def describe(self) -> dict[str, Any]:
        """The strategy as plain data."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "when": self.when,
            "needs": list(self.needs),
            "passes": self.passes,
            "proposals": self.proposals,
            "steady": self.build.steady,
            "parameters": self.parameters(),
            "faithful": [one.to_dict() for one in self.comparisons],
        }

    @property
    def comparisons(self) -> tuple[HeldAgainst, ...]:
        """Whom it was held against."""
        return recorded("genepool.evolution").get(self.name, ())


_registry: dict[str, StrategyEntry] = {}
_Class = TypeVar("_Class", bound=type[Strategy[Any]] | type[Breeder[Any]])


def register(
    name: str,
    *,
    title: str = "",
    source: str,
    when: str,
    needs: tuple[str, ...] = ("fitness",),
    passes: int = 1,
    usual: str = "",
) -> Callable[[_Class], _Class]:
    """Class decorator that puts a strategy on the list; see `StrategyEntry` for the arguments.

    Without a `title` it is called by its name, in words.
    """

    def add(build: _Class) -> _Class:
        if name in _registry and _registry[name].build.__qualname__ != build.__qualname__:
            raise ValueError(f"two strategies are called {name!r}")
        words = title or name.replace("_", " ")
        _registry[name] = StrategyEntry(name, words, source, when, needs, passes, usual, build)
        return build

    return add


def strategies() -> dict[str, StrategyEntry]:
    """Every strategy by name, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def strategy_entry(name: str, *, where: str = "") -> StrategyEntry:
    """The entry called `name`.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = strategies()
    if name not in known:
        raise InputError(f"unknown strategy '{name}'", where=where, fix=nearest(name, known))
    return known[name]


def make_strategy(
    name: str, start: np.ndarray, *, seed: int, options: Mapping[str, Any] | None = None, where: str = ""
) -> Strategy[Any]:
    """Builds a strategy over the unit cube.

    Args:
        name: one of `strategies()`.
        start: where the search begins, shape (d,), in the unit cube.
        seed: decides every random draw.
        options: the strategy's options by name; unknown ones are errors.
        where: file and key for errors.

    Raises:
        InputError: unknown strategy or option, an option out of range, or a strategy that breeds models.
    """
    entry = strategy_entry(name, where=where)
    if not issubclass(entry.build, Strategy):
        raise InputError(f"{name} breeds models and searches no points", where=where, fix="Use `make_breeder`")
    return entry.build(start, seed, _options(entry, options, where))


def make_breeder(
    name: str,
    founders: Sequence[str],
    tasks: Sequence[str],
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
    where: str = "",
) -> Breeder[Any]:
    """Builds a strategy that breeds models.

    Args:
        name: one of `strategies()`.
        founders: names of the models it starts from.
        tasks: names of the tasks that it is told the means of.
        seed, options, where: as for `make_strategy`.

    Raises:
        InputError: unknown strategy or option, an option out of range, or a strategy that searches points.
    """
    entry = strategy_entry(name, where=where)
    if not issubclass(entry.build, Breeder):
        raise InputError(f"{name} searches points and breeds no models", where=where, fix="Use `make_strategy`")
    checked = _options(entry, options, where)
    try:
        return entry.build(founders, tasks, seed, checked)
    except ValueError as error:
        raise InputError(str(error), where=where, fix="Change the study's skills or the strategy's options") from None


def _options(entry: StrategyEntry, options: Mapping[str, Any] | None, where: str) -> StrategyOptions:
    return validate(entry.build.Options, dict(options or {}), f"{where}.options" if where else "")
