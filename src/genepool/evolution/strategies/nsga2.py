"""NSGA-II: a front of merges that trade tasks against each other, instead of one best.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, register
from genepool.evolution.strategies.base import succeeded
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np


class Nsga2Options(StrategyOptions):
    """Options of NSGA-II; the defaults are those of Deb et al. 2002, with pymoo's index of the crossover."""

    objectives: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Tasks whose means are the objectives, and `unchanged`; null: all."
    )
    population: Count = Field(default=40, ge=4, description="Individuals.")
    crossover: float = Field(default=0.9, ge=0, le=1, description="Probability that a pair is crossed.")
    crossover_index: float = Field(
        default=15.0, ge=0, description="Index of SBX: the larger, the closer children are to their parents."
    )
    mutation: float | None = Field(
        default=None, gt=0, le=1, description="Probability that each number mutates; null is 1/d."
    )
    mutation_index: float = Field(
        default=20.0, ge=0, description="Index of the mutation: the larger, the smaller the steps."
    )


@register(
    "nsga2",
    title="NSGA-II",
    source="Deb, Pratap, Agarwal & Meyarivan 2002 (NSGA-II): binary tournaments, SBX 0.9, polynomial mutation 1/d, "
    "index 20; crossover index 15 as in pymoo",
    when="Tasks that pull in different directions: a front of trade-offs, with the knee suggested.",
    needs=("fitness", "tasks"),
)
class Nsga2(Strategy[Nsga2Options]):
    """Parents and children compete; the better front survives, and of the last front those with most room around them.

    The first generation is the start and uniform points.
    """

    steady = True

    def __init__(self, start: np.ndarray, seed: int, options: Nsga2Options) -> None:
        import numpy as np

        super().__init__(start, seed, options)
        self._xs = np.empty((0, self.dimensions))
        self._values = np.empty((0, 0))
        self._names: list[str] = []
        self._wanted: tuple[str, ...] = ()

    def front(self) -> tuple[np.ndarray, np.ndarray]:
        """Points, shape (n, d), and objectives, shape (n, objectives), that nobody of the population dominates."""
        from genepool.evolution.pareto import ranks

        first = ranks(self._values) == 0
        return self._xs[first].copy(), self._values[first].copy()

    def collection(self) -> list[dict[str, Any]]:
        """The front, its knee first and as a group of its own."""
        from genepool.evolution.pareto import knee, ranks

        places = [i for i, rank in enumerate(ranks(self._values)) if rank == 0] if self._names else []
        chosen = places[knee(self._values[places])] if places else -1
        return [
            {
                "name": self._names[i],
                "group": "knee" if i == chosen else "front",
                "scores": dict(zip(self._wanted, self._values[i].tolist(), strict=True)),
            }
            for i in sorted(places, key=lambda place: place != chosen)
        ]

    def guess(self) -> np.ndarray | None:
        """The knee of the front."""
        from genepool.evolution.pareto import knee

        if not len(self._xs):
            return None
        points, values = self.front()
        chosen: np.ndarray = points[knee(values)]
        return chosen

    def _ask(self) -> np.ndarray:
        import numpy as np

        options = self.options
        generator = numpy_generator(self.seed, "nsga2", self.generation)
        if not len(self._xs):
            xs = generator.uniform(size=(options.population, self.dimensions))
            xs[0] = self.start
            return xs
        first, second = self._mates(generator), self._mates(generator)
        children = self._crossed(generator, self._xs[first], self._xs[second])
        chance = options.mutation or 1 / self.dimensions
        moved = _mutated(generator, children, options.mutation_index)
        asked: np.ndarray = np.where(generator.random(children.shape) < chance, moved, children)
        return asked

    def _mates(self, generator: np.random.Generator) -> np.ndarray:
        """Winners of binary tournaments: the better front, in one front the less crowded."""
        import numpy as np

        options = self.options
        rank, room = _ordered(self._values)
        pairs = generator.integers(len(self._xs), size=(options.population, 2))
        a, b = pairs.T
        better = (rank[a] < rank[b]) | ((rank[a] == rank[b]) & (room[a] >= room[b]))
        mates: np.ndarray = np.where(better, a, b)
        return mates

    def _crossed(self, generator: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Simulated binary crossover within the bounds; one child of each pair."""
        import numpy as np

        options = self.options
        low, high = np.minimum(a, b), np.maximum(a, b)
        gap, power = np.maximum(high - low, 1e-14), options.crossover_index + 1
        drawn = generator.random(a.shape)
        lower = generator.random(a.shape) < 0.5
        # How far beyond the parents a child may go ends at the nearer wall of its side.
        room = np.where(lower, low, 1 - high)
        alpha = 2 - (1 + 2 * room / gap) ** -power
        inside = drawn <= 1 / alpha
        spread = np.where(inside, drawn * alpha, 1 / np.maximum(2 - drawn * alpha, 1e-14)) ** (1 / power)
        child = np.where(lower, (low + high - spread * gap) / 2, (low + high + spread * gap) / 2)
        crossed = (generator.random((len(a), 1)) < options.crossover) & (generator.random(a.shape) < 0.5)
        children: np.ndarray = np.clip(np.where(crossed & (high - low > 1e-14), child, a), 0, 1)
        return children

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        import numpy as np

        options = self.options
        if evidence is None:
            raise ValueError("NSGA-II must be told the mean of every task")
        wanted = options.objectives or evidence.tasks
        alive = succeeded(len(xs), evidence)
        if not len(alive):
            return
        xs, values = xs[alive], evidence.columns(wanted)[alive]
        names = self._names + [f"{self.generation}.{i}" for i in alive]
        points = np.vstack([self._xs, xs])
        values = np.vstack([self._values, values]) if len(self._xs) else values
        rank, room = _ordered(values)
        kept = np.lexsort((-room, rank))[: options.population]
        self._xs, self._values, self._wanted = points[kept], values[kept], tuple(wanted)
        self._names = [names[i] for i in kept]


def _ordered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Front and crowding distance of every row."""
    import numpy as np

    from genepool.evolution.pareto import crowding, ranks

    rank = ranks(values)
    room = np.empty(len(values))
    for number in range(int(rank.max()) + 1):
        room[rank == number] = crowding(values[rank == number])
    return rank, room


def _mutated(generator: np.random.Generator, xs: np.ndarray, index: float) -> np.ndarray:
    """Polynomial mutation of every entry, inside the unit cube."""
    import numpy as np

    drawn, power = generator.random(xs.shape), index + 1
    down = 2 * drawn + (1 - 2 * drawn) * (1 - xs) ** power
    up = 2 * (1 - drawn) + 2 * (drawn - 0.5) * xs**power
    step = np.where(drawn < 0.5, np.maximum(down, 0) ** (1 / power) - 1, 1 - np.maximum(up, 0) ** (1 / power))
    moved: np.ndarray = np.clip(xs + step, 0, 1)
    return moved
