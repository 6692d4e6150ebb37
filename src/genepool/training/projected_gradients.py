"""Directions of long vectors, such as the gradients of examples, in few dimensions: a projection by random signs.

Samplers of single examples compare them. The signs belong to (seed, name), so a step that is taken again, and every
process, projects alike. Uses torch and the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import torch

# Signs of the projection that are made at once: 64 MiB of float32. Entries of the vectors that share them: 256 MiB.
_SIGNS, _TOGETHER = 2**24, 2**26


def directions(
    vector: Callable[[int], torch.Tensor], count: int, dimensions: int, *, seed: int, name: str
) -> torch.Tensor:
    """Vectors, projected and of length 1, (count, dimensions); a vector of zeros stays one.

    Args:
        vector: makes one of them, (parameters,), by its number.
        count: how many there are.
        dimensions: that are kept, at most.
        seed, name: decide the signs.
    """
    import torch

    found, rows = [], []
    for place in range(count):
        rows.append(vector(place))
        if len(rows) * len(rows[0]) >= _TOGETHER or place + 1 == count:
            lines = projected(torch.stack(rows), dimensions, seed=seed, name=name)
            found.append(torch.nn.functional.normalize(lines, dim=1))
            rows = []
    return torch.cat(found)


def projected(rows: torch.Tensor, dimensions: int, *, seed: int, name: str) -> torch.Tensor:
    """Rows times a matrix of random signs, (rows, dimensions), which keeps their angles nearly.

    Args:
        rows: (rows, parameters); where they have no more entries than `dimensions`, they come back as they are.
        dimensions: of the result.
        seed, name: decide the signs.
    """
    import numpy as np
    import torch

    size = rows.shape[1]
    if size <= dimensions:
        return rows
    total = torch.zeros(len(rows), dimensions)
    height = max(1, _SIGNS // dimensions)
    for block, begin in enumerate(range(0, size, height)):
        part = rows[:, begin : begin + height]
        # A bit for each sign: drawing them one by one would take longer than the product.
        generator, count = numpy_generator(seed, name, "projection", block), part.shape[1] * dimensions
        drawn = np.unpackbits(np.frombuffer(generator.bytes(-(-count // 8)), np.uint8), count=count)
        total += part @ torch.from_numpy(drawn).view(-1, dimensions).float().mul_(2).sub_(1)
    return total / math.sqrt(dimensions)
