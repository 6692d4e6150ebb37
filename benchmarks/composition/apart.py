"""LoraHub as its authors' code does it: the factors of adapters are added up apart, `(sum w_i B_i)(sum w_i A_i)`.

Then -w does what w does for one adapter, and terms of one adapter's B with another's A appear. genepool adds up
products; this is what it is compared with. Search, loss and evaluations are those of the composer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.composition.bed import Bed, timed
from benchmarks.composition.cells import Cell
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.composers.lorahub import LoraHub, LoraHubOptions
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

    @property
    def layout(self) -> CoefficientLayout:
        """One coefficient for a skill, the same for all tensors."""
        return CoefficientLayout(len(self._skills.skills), self._skills.vectors().names)

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


def factors_apart(bed: Bed, examples: int) -> Cell:
    """The arm."""
    import torch

    composer = LoraHub(LoraHubOptions())
    skills = bed.opened(composer, adapters=True)
    world = bed.given(skills, examples)
    sums = FactorSums(world.network, skills)
    (best, _), seconds = timed(lambda: composer._searched(world, sums))  # type: ignore[arg-type]
    change = sums.change(torch.tensor(best, dtype=torch.float32))
    return Cell(bed.ask(WeightsSource(skills.on_base(change).applied("factors apart"))), seconds)
