"""LoraHub as its authors' code does it: the factors of adapters are added up apart, `(sum w_i B_i)(sum w_i A_i)`.

Then -w does what w does for one adapter, and terms of one adapter's B with another's A appear. genepool adds up
products; this is what it is compared with. Search, loss and evaluations are those of the composer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.composition.bed import Bed, timed
from benchmarks.composition.cells import Cell
from genepool.composition.composers.lorahub import LoraHub, LoraHubOptions, _CoefficientSearch
from genepool.composition.skill_set import SkillSet
from genepool.tasks.models import WeightsSource
from genepool.tasks.network import Network
from genepool.weights.in_memory import ResidentChange

if TYPE_CHECKING:
    import torch


class FactorSums:
    """Adapters of one rank, summed factor by factor, as `MergedNetwork` holds sums of products.

    Args:
        network: the base, loaded; its tensors are changed in place.
        skills: adapters.
    """

    def __init__(self, network: Network, skills: SkillSet) -> None:
        self._network, self._skills = network, skills

    def put(self, coefficients: torch.Tensor) -> None:
        """Makes the network the base with the sum; coefficients as those of a merge, the same for all tensors."""
        self._network.assign(self.change(coefficients[:, 0, 0]).applied())

    def change(self, weights: torch.Tensor) -> ResidentChange:
        """The sum for some weights, shape (skills,)."""
        return ResidentChange(
            {name: self._sum(name, weights) for name in self._skills.vectors().names}, self._skills.memory_base, "apart"
        )

    def _sum(self, name: str, weights: torch.Tensor) -> torch.Tensor:
        import torch

        factors = [change.factors(name) for change in self._skills.memory_changes]
        products = [one for one in factors if one is not None]
        if len(products) < len(factors) or len({one.factor for one in products}) > 1:
            raise ValueError(f"{name}: adapters of one scale are needed")
        left = torch.stack([one.left.float() for one in products])
        right = torch.stack([one.right.float() for one in products])
        scale = weights[:, None, None]
        return products[0].factor * ((scale * left).sum(0) @ (scale * right).sum(0))


class _ApartSearch(_CoefficientSearch):
    def __init__(self, options: LoraHubOptions, world: Any) -> None:
        super().__init__(options, world, "factors apart")
        self.sums = FactorSums(world.network, world.skills)
        self._merged = self.sums  # type: ignore[assignment]


def factors_apart(bed: Bed, examples: int) -> Cell:
    """The arm."""
    composer = LoraHub(LoraHubOptions())
    skills = bed.opened(composer, adapters=True)
    search = _ApartSearch(composer.options, bed.given(skills, examples))
    (weights, _), seconds = timed(search.run)
    change = search.sums.change(weights[:, 0, 0])
    return Cell(bed.ask(WeightsSource(skills.on_base(change).applied("factors apart"))), seconds)
