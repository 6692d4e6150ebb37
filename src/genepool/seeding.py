"""Randomness that belongs to a (seed, name) pair and never to the order in which things run.

Every random draw in genepool starts from :func:`derive`, so a mask, a bootstrap or a candidate comes out the
same whatever the number of threads or workers, and changing one tensor never changes another's draw.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every one of `names`, and on nothing else."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator of its own for this (seed, names)."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A torch CPU generator of its own for this (seed, names)."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))
