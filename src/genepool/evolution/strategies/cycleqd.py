"""CycleQD: one archive of models for every task, in which the other tasks' scores say where a model belongs.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.evolution.archives import GridArchive
from genepool.evolution.strategies import Breeder, Count, Evidence, StrategyOptions, register
from genepool.evolution.strategies.base import Birth, succeeded
from genepool.seeding import derive, numpy_generator

if TYPE_CHECKING:
    import numpy as np

# Elites are drawn by products of values stretched to these (the authors' sampler).
_LOW, _SPAN = 0.5, 0.8


class CycleqdOptions(StrategyOptions):
    """Options of CycleQD; the defaults are the authors' (Kuroki et al. 2024)."""

    bins: int = Field(default=15, ge=1, le=100, description="Cells along each of the other tasks' scores, from 0 to 1.")
    sigma: float = Field(default=0.01, ge=0, description="Spread of the parents' weights around 1 in a crossover.")
    rate: float = Field(
        default=0.1, ge=0, description="Largest factor with which a singular direction of the expert is added again."
    )
    children: Count = Field(
        default=1, ge=1, description="Children in a generation; more children keep more workers busy."
    )


@register(
    "cycleqd",
    title="CycleQD",
    source="Kuroki, Nakamura, Akiba & Tang 2024, arXiv:2410.14735: 15 bins, weights N(1, 0.01), singular directions at "
    "rate 0.1, 1200 generations, elite sampling",
    when="A collection rather than one model: the best for every mix of the other tasks, at many evaluations.",
    needs=("fitness", "tasks"),
)
class Cycleqd(Breeder[CycleqdOptions]):
    """Quality diversity over tasks that take turns as the quality.

    The task that counts as quality changes every generation. Parents are drawn from its archive; a parent is the
    likelier, the better it is at this and the other tasks. The child moves along the singular directions of that task's
    expert.

    Adapters are moved factor by factor, each along its own singular directions: what comes out keeps their rank.

    Attributes:
        archives: by task, a grid over the scores of the other tasks.
        experts: by task, the founder that did best at it.
    """

    steady = True
    spectral = True
    fewest = 2

    def __init__(self, founders: Sequence[str], tasks: Sequence[str], seed: int, options: CycleqdOptions) -> None:
        super().__init__(founders, tasks, seed, options)
        if not tasks:
            raise ValueError("CycleQD needs tasks")
        # A single task has no others: one cell.
        shape = [options.bins] * max(len(tasks) - 1, 1)
        if options.bins ** len(shape) > 10**9:
            raise ValueError(f"{options.bins} bins over {len(shape)} tasks are too many cells; take fewer bins")
        self.archives = {task: GridArchive(shape, [(0.0, 1.0)] * len(shape)) for task in self.tasks}
        self.experts: dict[str, str] = {}

    def living(self) -> frozenset[str]:
        return frozenset(str(elite.item) for archive in self.archives.values() for elite in archive.elites())

    def collection(self) -> list[dict[str, Any]]:
        """The elites of every task's archive."""
        found = []
        for place, (task, archive) in enumerate(self.archives.items()):
            others = [name for i, name in enumerate(self.tasks) if i != place]
            for elite in archive.elites():
                scores = dict(zip(others, elite.measures, strict=False))
                scores = {task: elite.objective, **scores}
                found.append({"name": str(elite.item), "group": task, "scores": scores, "quality": task})
        return found

    def guess(self) -> Birth | None:
        """The elites of all archives in one: each task's best, weighted by softmax of how good it is."""
        import numpy as np

        best = [archive.best() for archive in self.archives.values()]
        found = [elite for elite in best if elite is not None]
        if not found:
            return None
        weights: dict[str, float] = {}
        shares = np.exp([elite.objective for elite in found])
        for elite, share in zip(found, shares / shares.sum(), strict=True):
            weights[str(elite.item)] = weights.get(str(elite.item), 0.0) + float(share)
        return Birth("mix", tuple(weights), {"weights": list(weights.values())})

    def _ask(self) -> list[Birth]:
        options = self.options
        if not self.generation:
            return [Birth("copy", (name,)) for name in self.founders]
        task = self.tasks[self.generation % len(self.tasks)]
        generator = numpy_generator(self.seed, "cycleqd", self.generation)
        return [self._child(generator, task, i) for i in range(options.children)]

    def _child(self, generator: np.random.Generator, task: str, place: int) -> Birth:
        options = self.options
        elites = self.archives[task].elites()
        odds = _stretched([elite.objective for elite in elites])
        # By the bins of the other tasks, as the authors' sampler, not by the scores themselves.
        for bins in zip(*(self.archives[task].indices(elite.measures) for elite in elites), strict=True):
            odds = odds * _stretched(bins)
        pair = generator.choice(len(elites), size=min(2, len(elites)), replace=False, p=odds / odds.sum())
        weights = generator.normal(1.0, options.sigma, size=len(pair))
        return Birth(
            "stretch",
            tuple(str(elites[int(i)].item) for i in pair),
            {
                "weights": [float(w) for w in weights / weights.sum()],
                "expert": self.experts[task],
                "rate": options.rate,
            },
            derive(self.seed, "cycleqd", "child", self.generation, place),
        )

    def _tell(
        self, names: Sequence[str], births: Sequence[Birth], fitness: np.ndarray, evidence: Evidence | None
    ) -> None:
        if evidence is None or evidence.tasks != self.tasks:
            raise ValueError("CycleQD must be told the mean of every task")
        alive = succeeded(len(names), evidence)
        for place, task in enumerate(self.tasks):
            if not self.generation and len(alive):
                self.experts[task] = births[alive[int(evidence.means[alive, place].argmax())]].parents[0]
            for number in alive:
                means = evidence.means[number]
                others = [float(mean) for i, mean in enumerate(means) if i != place] or [0.0]
                self.archives[task].add(names[number], float(means[place]), others)


def _stretched(values: Sequence[float]) -> np.ndarray:
    import numpy as np

    values_ = np.asarray(values, dtype=np.float64)
    low, high = float(values_.min()), float(values_.max())
    result: np.ndarray = np.ones(len(values_)) if low == high else _LOW + (values_ - low) * (_SPAN / (high - low))
    return result
