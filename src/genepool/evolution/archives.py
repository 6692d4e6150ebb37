"""Archives of quality-diversity search: the best of every cell of a space of behaviours.

Solutions are whatever the caller keeps (a name, a vector); objectives are maximised. Cells are those of a grid or of a
centroidal Voronoi tessellation. Uses numpy only; pyribs agrees cell by cell in the tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.seeding import numpy_generator

# Keeps 0.3 of ten cells in the fourth, where rounding would put it in the third (pyribs does the same).
_EPSILON = 1e-6


class Status(IntEnum):
    """What became of a solution that was offered."""

    REJECTED = 0
    IMPROVED = 1
    NEW = 2


@dataclass(frozen=True)
class Elite:
    """The best solution of a cell.

    Attributes:
        cell: the cell's number; for a grid, its indices from the last axis up, as numpy ravels them.
        item: the solution.
        objective: larger is better.
        measures: where it lies.
    """

    cell: int
    item: Any
    objective: float
    measures: tuple[float, ...]


class Archive(ABC):
    """Cells, each empty or with an elite.

    Args:
        ranges: (lowest, highest) of each measure; what lies outside belongs to the nearest cell.
    """

    def __init__(self, ranges: Sequence[tuple[float, float]]) -> None:
        if not ranges or not all(low < high for low, high in ranges):
            raise ValueError(f"ranges must be pairs (low, high) with low below high, not {list(ranges)}")
        self.ranges = tuple((float(low), float(high)) for low, high in ranges)
        self._elites: dict[int, Elite] = {}

    @property
    @abstractmethod
    def cells(self) -> int:
        """How many cells there are."""

    @abstractmethod
    def cell(self, measures: Sequence[float]) -> int:
        """The cell of a place, shape (measures,)."""

    def add(self, item: Any, objective: float, measures: Sequence[float]) -> tuple[Status, float]:
        """Offers a solution; it stays if its cell is empty or its objective above the elite's.

        Returns:
            What became of it, and by how much it is better than what was there (its objective, for an empty cell).

        Raises:
            ValueError: a number that is not finite, or not one measure per axis.
        """
        place = tuple(float(value) for value in measures)
        if len(place) != len(self.ranges):
            raise ValueError(f"{len(place)} measures for {len(self.ranges)} axes")
        if not np.isfinite([objective, *place]).all():
            raise ValueError(f"objective and measures must be finite, not {objective}, {place}")
        cell = self.cell(place)
        known = self._elites.get(cell)
        gain = float(objective) - (0.0 if known is None else known.objective)
        if known is not None and gain <= 0:
            return Status.REJECTED, gain
        self._elites[cell] = Elite(cell, item, float(objective), place)
        return (Status.NEW if known is None else Status.IMPROVED), gain

    def elites(self) -> list[Elite]:
        """All elites, by cell."""
        return [self._elites[cell] for cell in sorted(self._elites)]

    def best(self) -> Elite | None:
        """The elite with the highest objective, of equals the one in the lowest cell; None when empty."""
        return max(self.elites(), key=lambda elite: elite.objective, default=None)

    @property
    def coverage(self) -> float:
        """Share of the cells that have an elite."""
        return len(self._elites) / self.cells

    @property
    def qd_score(self) -> float:
        """Sum of the elites' objectives; says something only where none is negative."""
        return sum(elite.objective for elite in self.elites())

    def __len__(self) -> int:
        return len(self._elites)


class GridArchive(Archive):
    """Cells of equal size.

    Args:
        shape: cells along each measure.
        ranges: as for `Archive`.
    """

    def __init__(self, shape: Sequence[int], ranges: Sequence[tuple[float, float]]) -> None:
        super().__init__(ranges)
        if len(shape) != len(self.ranges) or min(shape) < 1:
            raise ValueError(f"shape {list(shape)} does not fit {len(self.ranges)} measures")
        self.shape = tuple(int(count) for count in shape)

    @property
    def cells(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    def indices(self, measures: Sequence[float]) -> tuple[int, ...]:
        """The cell's index along each measure."""
        found = []
        for value, (low, high), count in zip(measures, self.ranges, self.shape, strict=True):
            index = int(np.floor((count * (value - low) + _EPSILON) / (high - low)))
            found.append(min(max(index, 0), count - 1))
        return tuple(found)

    def cell(self, measures: Sequence[float]) -> int:
        number = 0
        for index, count in zip(self.indices(measures), self.shape, strict=True):
            number = number * count + index
        return number


class CvtArchive(Archive):
    """Cells of a centroidal Voronoi tessellation, of about equal size whatever the number of measures.

    Args:
        cells: how many.
        ranges: as for `Archive`.
        seed: decides the centroids.
        samples: uniform points that the centroids are the means of; by default 25 a cell (Vassiliades et al. 2018: 25
            to 100), at least 10,000 and at most a million.
    """

    def __init__(
        self, cells: int, ranges: Sequence[tuple[float, float]], *, seed: int = 0, samples: int | None = None
    ) -> None:
        super().__init__(ranges)
        if cells < 1:
            raise ValueError(f"an archive of {cells} cells")
        low, high = np.array(self.ranges).T
        generator = numpy_generator(seed, "cvt", cells, len(self.ranges))
        points = generator.uniform(
            low, high, size=(samples or min(max(10_000, 25 * cells), 1_000_000), len(self.ranges))
        )
        self.centroids = _centroids(
            points, points[generator.choice(len(points), size=cells, replace=False)], high - low
        )
        self._width = high - low

    @property
    def cells(self) -> int:
        return len(self.centroids)

    def cell(self, measures: Sequence[float]) -> int:
        low, high = np.array(self.ranges).T
        place = np.clip(np.asarray(measures, dtype=np.float64), low, high)
        return int(np.argmin((((self.centroids - place) / self._width) ** 2).sum(1)))


def _centroids(
    points: NDArray[np.float64], start: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Lloyd's algorithm from `start`, until a cell moves by a hundredth of its size on average, or for 50 rounds."""
    from scipy.spatial import cKDTree

    points, centroids = points / width, start / width
    near = 0.01 * len(start) ** (-1 / points.shape[1])
    for _ in range(50):
        # A tree, because comparing every point with every cell grows with the square of the cells.
        nearest = cKDTree(centroids).query(points)[1]
        counts = np.bincount(nearest, minlength=len(centroids))
        sums = np.stack([np.bincount(nearest, column, len(centroids)) for column in points.T], axis=1)
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
        step, centroids = float(np.linalg.norm(moved - centroids, axis=1).mean()), moved
        if step < near:
            break
    return centroids * width
