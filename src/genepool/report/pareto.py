"""The Pareto front: of points on two objectives, both the larger the better, those that nothing else beats.

Uses numpy alone; the trade-offs of a study are chosen and told with it. The page draws the same front itself, for the
two objectives and the points its reader chooses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def front(x: ArrayLike, y: ArrayLike) -> NDArray[np.intp]:
    """Indices of the points that no other one beats: none is as good on both objectives and better on one.

    Args:
        x, y: the objectives, shape (points,), larger is better; points with a NaN in either are left out.

    Returns:
        Indices of the front, shape (front,), by growing x; points that are equal are all on it or all off it.
    """
    points = np.column_stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    known = np.flatnonzero(~np.isnan(points).any(axis=1))
    if not len(known):
        return known
    # Rows come back in order of x, then y: whatever can beat one stands behind it.
    distinct, place = np.unique(points[known], axis=0, return_inverse=True)
    best_behind = np.append(np.maximum.accumulate(distinct[::-1, 1])[::-1][1:], -np.inf)
    place = place.reshape(-1)
    on_front = known[(distinct[:, 1] > best_behind)[place]]
    return on_front[np.argsort(points[on_front, 0], kind="stable")]
