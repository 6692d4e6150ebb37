"""What Twin-Merging makes of skills: one part that they share, and for each what it has beside that, of low rank.

Uses `blend` and `vectors`; whatever mixes the parts adds them up as it would skills.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from genepool import progress
from genepool.composition.blend import Blend
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.vectors import TaskVectors
from genepool.kernels.spectral import low_rank
from genepool.seeding import torch_generator
from genepool.weights import Change, Weights
from genepool.weights.encodings.low_rank import Product

if TYPE_CHECKING:
    import torch

#: Two factors, `(rows, rank)` and `(rank, columns)`.
Factors = tuple["torch.Tensor", "torch.Tensor"]


def shared_part(vectors: TaskVectors, scale: float, name: str, identity: str) -> Blend:
    """What all tasks share: `scale * sum_i t_i`.

    Args:
        vectors: the skills.
        scale: the factor.
        name: what the user calls it.
        identity: what decides it, as text.
    """
    import torch

    layout = CoefficientLayout(len(vectors.changes), vectors.names)
    return Blend(vectors, layout, torch.full(layout.shape, scale), name, [identity])


class ExclusivePart(Change):
    """What one skill has beside the shared part, `t_i - shared`: of low rank where it has factors, else exact.

    Args:
        vectors: the skills.
        shared: the shared part.
        number: of the skill.
        factors: by tensor; those that are not there are exact.
        identity: what decides it, as text.
    """

    kind: ClassVar[str] = "exclusive"
    base: Weights

    def __init__(
        self, vectors: TaskVectors, shared: Blend, number: int, factors: Mapping[str, Factors], identity: str
    ) -> None:
        self._vectors, self._shared, self._number = vectors, shared, number
        self._factors, self._identity = factors, identity
        self.name, self.base = vectors.changes[number].name, vectors.base

    def names(self) -> tuple[str, ...]:
        return self._vectors.names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if name in self._factors:
            left, right = self._factors[name]
            return left[start:stop] @ right
        # A skill that leaves a tensor alone still lacks what the others put there.
        shared = self._shared.rows(name, start, stop)
        holders = self._vectors.holders(name)
        if self._number not in holders:
            return -shared
        return self._vectors.block(name, start, stop)[holders.index(self._number)] - shared

    def factors(self, name: str) -> Product | None:
        return Product(*self._factors[name]) if name in self._factors else None

    def digest(self) -> str:
        return hashlib.sha256(f"{self._identity}\x1f{self._number}".encode()).hexdigest()


def rank_of(matrix: tuple[int, int], share: float) -> int | None:
    """The rank that a share of the singular values is, at least 1; None where all are kept.

    Args:
        matrix: (rows, columns).
        share: above 0, at most 1.
    """
    short = min(matrix)
    rank = max(1, math.floor(share * short))
    return None if rank >= short else rank


def exclusive_factors(vectors: TaskVectors, shared: Blend, share: float) -> list[dict[str, Factors]]:
    """The best approximations of `t_i - shared`, for every skill, of every matrix (not of vectors, which stay exact).

    They are exact up to a shorter side of 1024 or four times the rank, and within a fraction of a percent beyond (see
    `genepool.kernels.spectral.low_rank`). One matrix is in memory at a time.

    Args:
        vectors: the skills.
        shared: the shared part.
        share: of the singular values, as `rank_of` reads it.
    """
    ranks = {name: rank_of(vectors.matrix(name), share) for name in truncatable(vectors)}
    found: list[dict[str, Factors]] = [{} for _ in vectors.changes]
    with progress.bar("taking the exclusive parts", len(ranks) * len(found), "matrices") as bar:
        for name, rank in ranks.items():
            for number, factors in enumerate(found):
                if rank is not None:
                    matrix = ExclusivePart(vectors, shared, number, {}, "").whole(name)
                    # The start of the range finder belongs to the tensor: another order gives the same factors.
                    triplets, _ = low_rank(matrix, rank, torch_generator(0, "exclusive", name))
                    factors[name] = ((triplets.left * triplets.values).contiguous(), triplets.right.contiguous())
                bar.advance()
    return found


def truncatable(vectors: TaskVectors) -> list[str]:
    """The tensors with more than one dimension."""
    return [name for name in vectors.names if len(vectors.base.info(name).shape) > 1]
