"""The door for search algorithms: `ask()` for candidates in the unit cube, `tell()` what they were worth.

One file of this folder per algorithm, found by itself; a strategy knows nothing of models, tasks or files. Uses
numpy and pydantic only at the top; the study's loop (`genepool.evolution.loop`) is what drives a strategy.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from genepool.errors import InputError, nearest
from genepool.schema import Strict, validate

if TYPE_CHECKING:
    import numpy as np


class StrategyOptions(Strict):
    """What a user may set under `strategy.options`; each strategy subclasses it."""


class Strategy(ABC):
    """A search over the unit cube that maximises a fitness.

    A strategy's state is a function of its constructor arguments and of what it was told, and of nothing else: no
    clock, no global generator, no thread count. That is how a study resumes: it builds the strategy anew, asks,
    compares with the candidates on record and tells the fitness on record, generation by generation. Nothing is
    pickled, so a study file from someone else is only ever numbers.

    Args:
        start: where the search begins, shape (d,), each in [0, 1].
        seed: decides every random draw.
        options: the strategy's own `Options`.
    """

    Options: ClassVar[type[StrategyOptions]] = StrategyOptions
    #: Distributions whose version can change what a strategy proposes; recorded with the study.
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    def __init__(self, start: np.ndarray, seed: int, options: StrategyOptions) -> None:
        import numpy as np

        start = np.array(start, dtype=np.float64)
        if start.ndim != 1 or not start.size or not ((start >= 0) & (start <= 1)).all():
            raise ValueError(f"start must be a vector with entries in [0, 1], not {start!r}")
        self.start, self.seed, self.options = start, seed, options
        self._pending: np.ndarray | None = None

    @property
    def dimensions(self) -> int:
        """Number of coordinates of a candidate."""
        return len(self.start)

    def ask(self) -> np.ndarray:
        """The candidates of the current generation, shape (population, d), each entry in [0, 1].

        Asking again before `tell` returns the same candidates.
        """
        if self._pending is None:
            with _one_blas_thread():
                self._pending = self._ask()
        return self._pending.copy()

    def tell(self, xs: np.ndarray, fitness: np.ndarray) -> None:
        """Takes the fitness of every candidate of the generation that `ask` returned; larger is better.

        Args:
            xs: shape (population, d), exactly what `ask` returned.
            fitness: shape (population,), finite.

        Raises:
            ValueError: part of a generation, other candidates than asked, or a fitness that is not finite.
                Nothing has changed then.
        """
        import numpy as np

        xs, fitness = np.asarray(xs, dtype=np.float64), np.asarray(fitness, dtype=np.float64)
        if self._pending is None:
            raise ValueError("tell() without ask(): no candidates are waiting for a fitness")
        if xs.shape != self._pending.shape:
            raise ValueError(f"tell() takes the whole generation, shape {self._pending.shape}, not {xs.shape}")
        if not np.array_equal(xs, self._pending):
            raise ValueError("tell() got other candidates than ask() returned")
        if fitness.shape != (len(xs),):
            raise ValueError(f"fitness must have shape ({len(xs)},), not {fitness.shape}")
        if not np.isfinite(fitness).all():
            raise ValueError(
                f"fitness must be finite; entries {np.flatnonzero(~np.isfinite(fitness)).tolist()} are not"
            )
        with _one_blas_thread():
            self._tell(self._pending, fitness)
        self._pending = None

    def guess(self) -> np.ndarray | None:
        """Where the strategy believes the best point is, shape (d,), although it never asked for it; None if nowhere.

        Scores are noisy, so the highest one seen flatters its candidate; a guess drawn from all of them does not.
        """
        return None

    @abstractmethod
    def _ask(self) -> np.ndarray:
        """A new generation, shape (population, d), inside the unit cube."""

    @abstractmethod
    def _tell(self, xs: np.ndarray, fitness: np.ndarray) -> None:
        """Learns from one complete generation with finite fitness."""


def default_population(dimensions: int) -> int:
    """4 + floor(3 ln d): CMA-ES's default (Hansen 2016, "The CMA Evolution Strategy: A Tutorial", table 1)."""
    return 4 + math.floor(3 * math.log(dimensions))


@dataclass(frozen=True)
class StrategyEntry:
    """One registered strategy.

    Attributes:
        name: what a study file calls it.
        source: where the algorithm and its defaults come from.
        when: one sentence on when to use it.
        needs: what it has to be told about each candidate; "fitness" for all of today's.
        passes: how often each candidate is scored on the validation examples.
        build: the class.
    """

    name: str
    source: str
    when: str
    needs: tuple[str, ...]
    passes: int
    build: type[Strategy]

    def parameters(self) -> list[dict[str, Any]]:
        """The options as plain data: name, type, default, meaning."""
        properties = self.build.Options.model_json_schema().get("properties", {})
        return [
            {
                "name": name,
                "type": " | ".join(_types(schema)),
                "default": schema.get("default"),
                "description": schema.get("description", ""),
            }
            for name, schema in properties.items()
        ]

    def describe(self) -> dict[str, Any]:
        """One row of `genepool strategies --json`."""
        return {
            "name": self.name,
            "source": self.source,
            "when": self.when,
            "needs": list(self.needs),
            "passes": self.passes,
            "parameters": self.parameters(),
        }


_registry: dict[str, StrategyEntry] = {}
_Class = TypeVar("_Class", bound=type[Strategy])


def register(
    name: str, *, source: str, when: str, needs: tuple[str, ...] = ("fitness",), passes: int = 1
) -> Callable[[_Class], _Class]:
    """Class decorator that puts a strategy on the list; see `StrategyEntry` for the arguments."""

    def add(build: _Class) -> _Class:
        if name in _registry and _registry[name].build.__qualname__ != build.__qualname__:
            raise ValueError(f"two strategies are called {name!r}")
        _registry[name] = StrategyEntry(name, source, when, needs, passes, build)
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
) -> Strategy:
    """Builds a strategy.

    Args:
        name: one of `strategies()`.
        start: where the search begins, shape (d,), in the unit cube.
        seed: decides every random draw.
        options: the strategy's options by name; unknown ones are errors.
        where: file and key for errors.

    Raises:
        InputError: unknown strategy or option, or an option out of range.
    """
    entry = strategy_entry(name, where=where)
    return entry.build(
        start, seed, validate(entry.build.Options, dict(options or {}), f"{where}.options" if where else "")
    )


def _one_blas_thread() -> Any:
    # Several BLAS threads cost about ten times on the small matrices of a search, and change the last bits.
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")


def _types(schema: Mapping[str, Any]) -> list[str]:
    if "anyOf" in schema:
        return [kind for part in schema["anyOf"] for kind in _types(part)]
    if "enum" in schema:
        return [repr(value) for value in schema["enum"]]
    return [str(schema.get("type", "any"))]
