"""How well embeddings tell classes apart, by the classes of nearest neighbours. Plain arrays in, a share out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def neighbour_accuracy(embeddings: torch.Tensor, classes: NDArray[np.intp], neighbours: int) -> float:
    """The share of examples whose nearest neighbours, the example left out, vote for its class.

    Args:
        embeddings: (examples, width).
        classes: of each example, (examples,), counted from 0.
        neighbours: that vote, by Euclidean distance; fewer where there are not so many. Of classes with equally many
            votes the one with the nearest neighbour wins.
    """
    import torch

    points = embeddings.double()
    distances = torch.cdist(points, points)
    distances.fill_diagonal_(float("inf"))
    count = min(neighbours, len(points) - 1)
    if count < 1:
        return 0.0
    nearest = distances.argsort(dim=1, stable=True)[:, :count].numpy()
    right = 0
    for own, row in zip(classes, classes[nearest], strict=True):
        # Counted in the order of nearness, so that the first of the largest is the nearest one.
        ((winner, _),) = Counter(row.tolist()).most_common(1)
        right += int(winner == own)
    return right / len(points)
