"""A cheap guess at what a candidate is worth, from those that were evaluated: for sparing the hopeless ones.

Thin-plate splines over the genes, one for each task (scipy's). It is believed only as long as its order of candidates
agreed with what came out of late. Uses numpy and scipy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Splines cost the cube of their points: the latest so many, some 30 ms.
_POINTS = 400
# Scores are means over a few hundred examples: between their noise and their spread.
_SMOOTHING = 1e-3
_LATE = 20


class Surrogate:
    """Predicts the means of the tasks from a genome of numbers.

    Args:
        trust: Kendall's tau, between predictions and what came out of the latest 20 candidates, from which on it is
            believed.
    """

    def __init__(self, trust: float) -> None:
        self._trust = trust
        self._genes: tuple[str, ...] = ()
        self._tasks: tuple[str, ...] = ()
        self._points: deque[list[float]] = deque(maxlen=_POINTS)
        self._means: deque[list[float]] = deque(maxlen=_POINTS)
        self._late: deque[tuple[float, float]] = deque(maxlen=_LATE)

    def learn(self, genome: Mapping[str, float], means: Mapping[str, float]) -> None:
        """Takes a candidate that was evaluated."""
        self._genes, self._tasks = self._genes or tuple(genome), self._tasks or tuple(means)
        self._points.append([float(genome[gene]) for gene in self._genes])
        self._means.append([float(means[task]) for task in self._tasks])

    def predict(self, genomes: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        """Means of the tasks, from 0 to 1, for every genome; empty while too little is known to draw a line through."""
        from scipy.interpolate import RBFInterpolator

        if not self._points or len(self._points) < 2 * (len(self._genes) + 1):
            return []
        points, wanted = np.array(self._points), np.array([[one[gene] for gene in self._genes] for one in genomes])
        width = np.ptp(points, axis=0)
        # A gene that never changed says nothing, and would make the plane through the points undetermined.
        moved = width > 0
        if not moved.any():
            return []
        points, wanted = points[:, moved] / width[moved], wanted[:, moved] / width[moved]
        try:
            splines = RBFInterpolator(points, np.array(self._means), smoothing=_SMOOTHING * len(points))
        except np.linalg.LinAlgError:
            # The points lie in a plane of fewer dimensions.
            return []
        told: NDArray[np.float64] = np.clip(splines(wanted), 0, 1)
        return [dict(zip(self._tasks, map(float, row), strict=True)) for row in told]

    def came_out(self, predicted: float, actual: float) -> None:
        """Takes the fitness that was predicted of a candidate and the one it turned out to have."""
        self._late.append((predicted, actual))

    @property
    def trusted(self) -> bool:
        """Whether its order of candidates agreed with what came out of late."""
        from scipy.stats import kendalltau

        if len(self._late) < _LATE // 2:
            return False
        predicted, actual = zip(*self._late, strict=True)
        agreement = float(kendalltau(predicted, actual).statistic)
        return agreement >= self._trust
