"""MAP-Elites: the best merge for every mix of two or more tasks, on a grid or a Voronoi tessellation.

Uses numpy only. Registered as a strategy; driven by the study's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool.evolution.archives import Archive, CvtArchive, GridArchive
from genepool.evolution.strategies import Count, Evidence, Strategy, StrategyOptions, default_population, register
from genepool.evolution.strategies.base import succeeded
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np


class MapElitesOptions(StrategyOptions):
    """Options of MAP-Elites; steps of Vassiliades & Mouret 2018, bins of the baseline in Abrantes et al. 2025."""

    behaviours: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Tasks whose means, and `unchanged`, say where one belongs; null: the first two.",
    )
    archive: Literal["grid", "cvt"] = Field(
        default="grid", description="Cells: a grid, or a centroidal Voronoi tessellation for many behaviours."
    )
    bins: int = Field(default=10, ge=1, le=1000, description="Cells of the grid along each behaviour.")
    cells: Count = Field(default=100, ge=1, description="Cells of the tessellation.")
    batch: Count | None = Field(default=None, ge=1, description="Candidates a generation; null is 4 + floor(3 ln d).")
    iso: float = Field(default=0.01, ge=0, description="Spread of a step in all directions.")
    line: float = Field(default=0.2, ge=0, description="Spread of a step towards another elite.")


@register(
    "map_elites",
    title="MAP-Elites",
    source="Mouret & Clune 2015, arXiv:1504.04909; CVT archive of Vassiliades et al. 2018, arXiv:1610.05729; "
    "Iso+LineDD steps (0.01, 0.2) of Vassiliades & Mouret 2018, arXiv:1804.03906",
    when="To see what is possible: a map of the best merge for every mix of tasks.",
    needs=("fitness", "tasks"),
)
class MapElites(Strategy[MapElitesOptions]):
    """Every candidate is an elite moved a little in all directions and along the line to another elite.

    The first generation is the start and uniform points.

    Attributes:
        archive: the map; its items are (name of the candidate, point). None before the first generation was told.
    """

    steady = True

    def __init__(self, start: np.ndarray, seed: int, options: MapElitesOptions) -> None:
        super().__init__(start, seed, options)
        self.archive: Archive | None = None
        self._wanted: tuple[str, ...] = ()

    def collection(self) -> list[dict[str, Any]]:
        """The elites of the map."""
        elites = self.archive.elites() if self.archive is not None else []
        return [
            {
                "name": elite.item[0],
                "group": f"cell {elite.cell}",
                "scores": {**dict(zip(self._wanted, elite.measures, strict=True)), "fitness": elite.objective},
                "quality": "fitness",
            }
            for elite in elites
        ]

    def _ask(self) -> np.ndarray:
        import numpy as np

        options = self.options
        size = options.batch or default_population(self.dimensions)
        generator = numpy_generator(self.seed, "map_elites", self.generation)
        if not self.archive:
            xs = generator.uniform(size=(size, self.dimensions))
            xs[0] = self.start
            return xs
        elites = np.array([elite.item[1] for elite in self.archive.elites()])
        pairs = generator.integers(len(elites), size=(size, 2))
        first, second = elites[pairs[:, 0]], elites[pairs[:, 1]]
        steps = options.iso * generator.standard_normal((size, self.dimensions))
        along = options.line * generator.standard_normal((size, 1)) * (second - first)
        moved: np.ndarray = np.clip(first + steps + along, 0, 1)
        return moved

    def _tell(self, xs: np.ndarray, fitness: np.ndarray, evidence: Evidence | None) -> None:
        options = self.options
        if evidence is None:
            raise ValueError("MAP-Elites must be told the mean of every task")
        wanted = options.behaviours or evidence.tasks[:2]
        places = evidence.columns(wanted)
        if self.archive is None:
            ranges = [(0.0, 1.0)] * len(wanted)
            grid = options.archive == "grid"
            self.archive = (
                GridArchive([options.bins] * len(wanted), ranges)
                if grid
                else CvtArchive(options.cells, ranges, seed=self.seed)
            )
        self._wanted = tuple(wanted)
        for i in succeeded(len(xs), evidence):
            self.archive.add((f"{self.generation}.{i}", xs[i].copy()), float(fitness[i]), places[i])
