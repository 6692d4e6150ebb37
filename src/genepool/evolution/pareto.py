"""Several objectives at once: who dominates whom, how crowded a front is, how much it covers, where its knee is.

All objectives are maximised. Uses numpy only; pymoo agrees in the tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


def ranks(objectives: Table) -> NDArray[np.int64]:
    """The front each row belongs to, shape (n,): 0 for those that nobody dominates (Deb et al. 2002, section III-A).

    Args:
        objectives: shape (n, objectives), larger is better.
    """
    table = np.asarray(objectives, dtype=np.float64)
    as_good: NDArray[np.bool_] = np.asarray((table[:, None] >= table[None]).all(2))
    dominates = as_good & ~as_good.T
    left = dominates.sum(0)
    found = np.full(len(table), -1, dtype=np.int64)
    rank = 0
    while (found < 0).any():
        front = (found < 0) & (left == 0)
        found[front] = rank
        left = left - dominates[front].sum(0)
        rank += 1
    return found


def crowding(objectives: Table) -> Table:
    """Crowding distance of each row within its front, shape (n,); infinite at the ends (Deb et al. 2002, III-B).

    Args:
        objectives: those of one front, shape (n, objectives).
    """
    table = np.asarray(objectives, dtype=np.float64)
    n = len(table)
    if n <= 2:
        return np.full(n, np.inf)
    distance = np.zeros(n)
    for column in table.T:
        order = np.argsort(column, kind="stable")
        width = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if width > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / width
    return distance


def hypervolume(objectives: Table, reference: Table) -> float:
    """Area that rows of two objectives dominate above a reference point, shape (2,)."""
    table = np.asarray(objectives, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(f"hypervolume is there for two objectives, not shape {table.shape}")
    area, height = 0.0, float(reference[1])
    for x, y in sorted(table.tolist(), key=lambda row: (-row[0], -row[1])):
        if x > reference[0] and y > height:
            area += (x - float(reference[0])) * (y - height)
            height = y
    return area


def knee(objectives: Table) -> int:
    """The row where a front bends most: farthest above the plane through the best of each objective.

    Objectives are scaled to the front's own range first. Of a front without a plane (one row, all alike) it is the
    row with the largest scaled sum.

    Args:
        objectives: those of one front, shape (n, objectives).
    """
    table = np.asarray(objectives, dtype=np.float64)
    low, high = table.min(0), table.max(0)
    scaled = (table - low) / np.where(high > low, high - low, 1.0)
    ends = scaled[[int(column.argmax()) for column in scaled.T]]
    # The plane w.x = 1 through the ends; where they do not span one, all objectives weigh alike.
    try:
        normal = np.linalg.solve(ends, np.ones(len(ends)))
    except np.linalg.LinAlgError:
        normal = np.ones(scaled.shape[1])
    if not (normal > 0).all():
        normal = np.ones(scaled.shape[1])
    return int(np.argmax(scaled @ normal))
