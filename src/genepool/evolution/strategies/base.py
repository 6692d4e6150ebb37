"""What every search algorithm is a subclass of: `ask()` for candidates, `tell()` what they were worth.

A `Strategy` proposes points of the unit cube; a `Breeder` proposes births, each of which says how one model comes to
be. Both are told a fitness, and, where they need it, the means of every task and the score of every example.
Knows nothing of models, tasks or files.
"""

from __future__ import annotations

import functools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

from pydantic import Field

from genepool.checked import is_line, is_whole
from genepool.errors import InputError
from genepool.schema import Strict

if TYPE_CHECKING:
    import numpy as np


#: The objective that is no task: the share of the base's entries that a merge leaves as they are. The larger, the fewer
#: bytes the merge takes as a sparse skill.
UNCHANGED = "unchanged"


#: What a strategy proposes: points of the unit cube, or births of models.
Proposals = Literal["points", "births"]

#: So many candidates, elites or cells. A larger number is a slip, and would fill the memory before anyone could tell.
Count = Annotated[int, Field(le=100_000)]


class StrategyOptions(Strict):
    """What a user may set under `strategy.options`; each strategy subclasses it."""

    page = "reference/strategies"


@dataclass(frozen=True)
class Evidence:
    """What is known of a generation beyond its fitness. A failed candidate has 0 everywhere.

    Attributes:
        tasks: names of the tasks.
        means: shape (population, tasks): mean score of each candidate on each task, from 0 to 1.
        scores: shape (population, examples): score on each example, from 0 to 1, task after task, the same examples
            in the same order for every candidate of the run.
        unchanged: shape (population,): share of the base's entries that each leaves as they are; None where the
            strategy did not ask.
        failed: shape (population,), bool: whose evaluation failed; None where nobody's did.
        importance: shape (examples,): what each example counts for, from its task's weight and size, 1 on average;
            None where all count alike.
    """

    tasks: tuple[str, ...]
    means: np.ndarray
    scores: np.ndarray
    unchanged: np.ndarray | None = None
    failed: np.ndarray | None = None
    importance: np.ndarray | None = None

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Means of the tasks of these names, and of `UNCHANGED` that share, shape (population, names).

        Raises:
            ValueError: one is neither.
        """
        import numpy as np

        found = []
        for name in names:
            if name in self.tasks:
                found.append(self.means[:, self.tasks.index(name)])
            elif name == UNCHANGED and self.unchanged is not None:
                found.append(self.unchanged)
            else:
                raise ValueError(f"no task '{name}' among {', '.join(self.tasks)}")
        return np.stack(found, axis=1)


Asked = TypeVar("Asked")
AnyOptions = TypeVar("AnyOptions", bound=StrategyOptions)


class AskTell(ABC, Generic[Asked, AnyOptions]):
    """What strategies over points and breeders have in common.

    The state of either is a function of its constructor arguments and of what it was told, and of nothing else: no
    clock, no global generator, no thread count. That is how a study resumes: it builds the strategy anew, asks,
    compares with the candidates on record and tells what is on record, generation by generation. Nothing is pickled,
    so a study file from someone else is only ever numbers.
    """

    #: What it is parametrised with: `class CmaEs(Strategy[CmaEsOptions])`.
    Options: ClassVar[type[StrategyOptions]] = StrategyOptions
    #: Distributions whose version can change what a strategy proposes; recorded with the study.
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    #: Whether it can be asked again while other generations after the first still wait for their fitness.
    steady: ClassVar[bool] = False

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        # Of this class alone: a subclass of a finished strategy inherits that one's.
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, StrategyOptions):
                    cls.Options = argument

    def __init__(self, seed: int, options: AnyOptions) -> None:
        self.seed, self.options = seed, options
        #: The number of the generation that is being asked for or told; between the two, of the next to be asked for.
        self.generation = 0
        self._asked_for = 0
        self._pending: dict[int, Asked] = {}

    def collection(self) -> list[dict[str, Any]]:
        """What it has gathered beyond a best one, as plain data: a front, an archive, a population.

        Each entry has "name" ("generation.index" of the candidate), "group" (the archive or front it is in) and
        "scores" (what places it there, by name); members of an archive also "quality", the score that the best of
        a cell is best by, all others being where it lies. Empty for strategies that gather nothing.
        """
        return []

    @property
    def waiting(self) -> dict[int, Asked]:
        """The generations that were asked for and not told, by number."""
        return dict(self._pending)

    def _asked(self, ahead: bool) -> Asked:
        if ahead and self._pending and (not self.steady or 0 in self._pending):
            raise ValueError(f"{type(self).__name__} cannot be asked again before it was told of the last generation")
        if ahead or not self._pending:
            self.generation = self._asked_for
            with _one_blas_thread():
                self._pending[self._asked_for] = self._ask()
            self._asked_for += 1
            return self._pending[self._asked_for - 1]
        return self._pending[min(self._pending)]

    def _told(self, generation: int | None) -> int:
        """The number of the generation to be told; the oldest that waits where none is named."""
        if not self._pending:
            raise ValueError("tell() without ask(): no generation is waiting for a fitness")
        number = min(self._pending) if generation is None else generation
        if number not in self._pending:
            raise ValueError(f"generation {number} is not waiting for a fitness")
        return number

    def _close(self, generation: int) -> None:
        del self._pending[generation]
        self.generation = self._asked_for

    def _check_told(self, count: int, fitness: np.ndarray, evidence: Evidence | None) -> None:
        import numpy as np

        if fitness.shape != (count,):
            raise ValueError(f"fitness must have shape ({count},), not {fitness.shape}")
        if not np.isfinite(fitness).all():
            raise ValueError(
                f"fitness must be finite; entries {np.flatnonzero(~np.isfinite(fitness)).tolist()} are not"
            )
        if evidence is not None:
            for name, table in (("means", evidence.means), ("scores", evidence.scores)):
                if table.ndim != 2 or len(table) != count:
                    raise ValueError(f"evidence.{name} must have {count} rows, not shape {table.shape}")
                if not np.isfinite(table).all():
                    raise ValueError(f"evidence.{name} must be finite")
            if evidence.failed is not None and evidence.failed.shape != (count,):
                raise ValueError(f"evidence.failed must have shape ({count},), not {evidence.failed.shape}")
            if evidence.means.shape[1] != len(evidence.tasks):
                raise ValueError(
                    f"evidence.means has {evidence.means.shape[1]} columns for {len(evidence.tasks)} tasks"
                )

    @abstractmethod
    def _ask(self) -> Asked:
        """A new generation."""


class Strategy(AskTell["np.ndarray", AnyOptions]):
    """A search over the unit cube that maximises a fitness.

    Args:
        start: where the search begins, shape (d,), each in [0, 1].
        seed: decides every random draw.
        options: the strategy's own `Options`.
    """

    def __init__(self, start: np.ndarray, seed: int, options: AnyOptions) -> None:
        import numpy as np

        super().__init__(seed, options)
        start = np.array(start, dtype=np.float64)
        if start.ndim != 1 or not start.size or not ((start >= 0) & (start <= 1)).all():
            raise ValueError(f"start must be a vector with entries in [0, 1], not {start!r}")
        self.start = start

    @property
    def dimensions(self) -> int:
        """Number of coordinates of a candidate."""
        return len(self.start)

    def ask(self, *, ahead: bool = False) -> np.ndarray:
        """The candidates of the current generation, shape (population, d), each entry in [0, 1].

        Asking again before `tell` returns the same candidates.

        Args:
            ahead: give a new generation although others wait for their fitness; for strategies that are `steady`,
                once the first generation was told.
        """
        return self._asked(ahead).copy()

    def tell(
        self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None = None, *, generation: int | None = None
    ) -> None:
        """Takes what every candidate of the generation that `ask` returned was worth; larger is better.

        Args:
            xs: shape (population, d), exactly what `ask` returned.
            fitness: shape (population,), finite.
            evidence: tasks and examples, for the strategies that need them.
            generation: its number; the oldest that waits when None.

        Raises:
            ValueError: part of a generation, other candidates than asked, or a fitness that is not finite.
                Nothing has changed then.
        """
        import numpy as np

        xs, fitness = np.asarray(xs, dtype=np.float64), np.asarray(fitness, dtype=np.float64)
        number = self._told(generation)
        asked = self._pending[number]
        if xs.shape != asked.shape:
            raise ValueError(f"tell() takes the whole generation, shape {asked.shape}, not {xs.shape}")
        if not np.array_equal(xs, asked):
            raise ValueError("tell() got other candidates than ask() returned")
        self._check_told(len(xs), fitness, evidence)
        self.generation = number
        with _one_blas_thread():
            self._tell(asked, fitness, evidence)
        self._close(number)

    def guess(self) -> np.ndarray | None:
        """Where the strategy believes the best point is, shape (d,), although it never asked for it; None if nowhere.

        Scores are noisy, so the highest one seen flatters its candidate; a guess drawn from all of them does not.
        """
        return None

    @abstractmethod
    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        """Learns from one complete generation with finite fitness."""


@dataclass(frozen=True)
class Birth:
    """How one model comes to be: plain data that determines its weights to the last bit.

    Attributes:
        op: one of `genepool.evolution.breeding.operators`.
        parents: founders by name, children of the run as "generation.index".
        parameters: what the operator takes, as plain data.
        seed: where its randomness starts from.
    """

    op: str
    parents: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def to_genome(self) -> dict[str, Any]:
        """The birth as the JSON a study keeps and shows."""
        return {"op": self.op, "parents": list(self.parents), **self.parameters, "seed": self.seed}

    @classmethod
    def from_genome(cls, genome: Mapping[str, Any]) -> Birth:
        """The reverse of `to_genome`.

        Raises:
            InputError: it is no birth; a record may be a stranger's.
        """
        op, parents, seed = (genome.get(key) for key in ("op", "parents", "seed"))
        if not is_line(op) or not is_whole(seed, 0) or not isinstance(parents, list | tuple):
            raise InputError(
                f"got {genome!r:.100}, expected the birth of a model", fix="Restore the study's record from a copy"
            )
        if not all(map(is_line, parents)):
            raise InputError(
                f"got {parents!r:.100}, expected the names of parents", fix="Restore the study's record from a copy"
            )
        rest = {key: value for key, value in genome.items() if key not in ("op", "parents", "seed")}
        return cls(op, tuple(parents), rest, seed)

    def to_bytes(self) -> bytes:
        """What makes two births the same."""
        return json.dumps(self.to_genome(), sort_keys=True, allow_nan=False).encode()


class Breeder(AskTell["list[Birth]", AnyOptions]):
    """A population of models: it proposes births and is told what the children were worth.

    Args:
        founders: names of the models it starts from.
        tasks: names of the tasks whose means it is told, in the order of `Evidence.means`.
        seed: decides every random draw.
        options: the breeder's own `Options`.

    The children of a generation are called "generation.index", the generation by its number.
    """

    #: How many founders it needs.
    fewest: ClassVar[int] = 1
    #: safetensors name of the type its children are held in, where that of the models would lose its steps.
    held: ClassVar[str | None] = None
    #: Whether its children move along singular directions of founders, which are then remembered.
    spectral: ClassVar[bool] = False
    #: Whether its children are trainings that go on, so that they must learn and hand on what they learned.
    trains: ClassVar[bool] = False

    def __init__(self, founders: Sequence[str], tasks: Sequence[str], seed: int, options: AnyOptions) -> None:
        super().__init__(seed, options)
        if len(founders) < self.fewest or len(set(founders)) < len(founders):
            raise ValueError(f"founders must be {self.fewest} or more different names, not {list(founders)}")
        self.founders, self.tasks = tuple(founders), tuple(tasks)

    def ask(self, *, ahead: bool = False) -> list[Birth]:
        """The births of the current generation. Asking again before `tell` returns the same ones.

        Args:
            ahead: as for `Strategy.ask`.
        """
        return list(self._asked(ahead))

    def tell(
        self,
        births: Sequence[Birth],
        fitness: np.ndarray,
        evidence: Evidence | None = None,
        *,
        generation: int | None = None,
    ) -> None:
        """Takes what every child of the generation was worth; larger is better.

        Args:
            births: exactly what `ask` returned.
            fitness: shape (population,), finite.
            evidence: tasks and examples, for the breeders that need them.
            generation: its number; the oldest that waits when None.

        Raises:
            ValueError: part of a generation, other births than asked, or a fitness that is not finite.
                Nothing has changed then.
        """
        import numpy as np

        fitness = np.asarray(fitness, dtype=np.float64)
        number = self._told(generation)
        if list(births) != self._pending[number]:
            raise ValueError("tell() takes exactly the births that ask() returned")
        self._check_told(len(births), fitness, evidence)
        names = [f"{number}.{i}" for i in range(len(births))]
        self.generation = number
        with _one_blas_thread():
            self._tell(names, self._pending[number], fitness, evidence)
        self._close(number)

    def guess(self) -> Birth | None:
        """A model it believes in although it never asked for it, such as an average of the best; None if none."""
        return None

    @abstractmethod
    def living(self) -> frozenset[str]:
        """Names of the children that may still become parents; what is not among them need not be kept."""

    @abstractmethod
    def _tell(
        self, names: Sequence[str], births: Sequence[Birth], fitness: np.ndarray, evidence: Evidence | None
    ) -> None:
        """Learns from one complete generation with finite fitness; `names` are what the children are called."""


def succeeded(count: int, evidence: Evidence | None) -> np.ndarray:
    """Places of a generation of `count` whose evaluation did not fail, shape (successes,).

    Fitness alone does not tell: a failure is handed on as one below the worst. Whatever gathers candidates must ask,
    or a broken model becomes an elite of an empty cell, or a parent.
    """
    import numpy as np

    if evidence is None or evidence.failed is None:
        return np.arange(count)
    return np.flatnonzero(~evidence.failed)


def default_population(dimensions: int) -> int:
    """4 + floor(3 ln d): CMA-ES's default (Hansen 2016, "The CMA Evolution Strategy: A Tutorial", table 1)."""
    return 4 + math.floor(3 * math.log(dimensions))


def _one_blas_thread() -> Any:
    # Several BLAS threads cost about ten times on the small matrices of a search, and change the last bits.
    return _threads().limit(limits=1, user_api="blas")


@functools.cache
def _threads() -> Any:
    # Looking for the libraries takes milliseconds, which strategies of one child a generation would pay each time.
    import numpy  # noqa: F401 - its library must be there to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
