"""`Blend`: skills of one base as one change, each tensor times its coefficient. What a learned merge folds into.

Uses `vectors` and `coefficients`; read block by block like any other `Change`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.gradient import scaled_sum
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError
from genepool.weights import Change
from genepool.weights.encodings.low_rank import Product

if TYPE_CHECKING:
    import torch


class Blend(Change):
    """`sum_i c_i t_i`, tensor by tensor and part by part.

    Args:
        vectors: the skills.
        layout: the coefficients.
        coefficients: shape (skills, tensors, parts).
        name: what the user calls it.
        identities: what goes into its fingerprint for each skill: that of the base with the skill.

    Raises:
        InputError: a coefficient is NaN or infinite.
    """

    kind: ClassVar[str] = "blend"

    def __init__(
        self,
        vectors: TaskVectors,
        layout: CoefficientLayout,
        coefficients: torch.Tensor,
        name: str,
        identities: Sequence[str],
    ) -> None:
        import torch

        if not bool(torch.isfinite(coefficients).all()):
            raise InputError("a coefficient is not a finite number", where=name, fix="Fit it again")
        self.vectors, self.layout, self.name, self.base = vectors, layout, name, vectors.base
        self.coefficients = coefficients.detach().to(torch.float32).cpu()
        self._places = {tensor: place for place, tensor in enumerate(vectors.names)}
        self._identities = tuple(identities)

    def names(self) -> tuple[str, ...]:
        return self.vectors.names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.vectors.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        parts = self.layout.part_of(name, start, stop, self.matrix(name)[1])
        return scaled_sum(self.vectors.block(name, start, stop), self._scales(name), parts)

    def factors(self, name: str) -> Product | None:
        """Products are put side by side, which is exact: a coefficient of a row scales a row of the left factor.

        None where a skill's change is no product, or entries of one row have several coefficients.
        """
        import torch

        products = [self.vectors.factors(skill, name) for skill in self.vectors.holders(name)]
        known = [product for product in products if product is not None]
        if len(known) < len(products) or (self.layout.parts > 1 and not self.layout.by_rows):
            return None
        scales = self._scales(name)[:, : self.matrix(name)[0], None] if self.layout.by_rows else self._scales(name)
        lefts = [one.left.float() * (one.factor * scale) for one, scale in zip(known, scales, strict=True)]
        return Product(torch.cat(lefts, 1), torch.cat([one.right.float() for one in known]))

    def digest(self) -> str:
        total = hashlib.sha256(f"{self.layout.shape}\x1f{self.layout.seed}\x1f{self.layout.by_rows}".encode())
        for one in (*self._identities, *self.vectors.names):
            total.update(f"\x1f{one}".encode())
        total.update(self.coefficients.contiguous().numpy().tobytes())
        return total.hexdigest()

    def identity(self) -> dict[str, Any]:
        found: dict[str, list[Any]] = {}
        for change in self.vectors.changes:
            for key, values in change.identity().items():
                found.setdefault(key, []).extend(values)
        return found

    def _scales(self, name: str) -> torch.Tensor:
        return self.coefficients[self.vectors.holders(name), self._places[name]]
