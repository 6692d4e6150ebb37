"""AdaMerging: how much of each skill goes into each tensor, learned from inputs without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.coefficients import CoefficientLayout, SharedScales, Sharing, groups_of
from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, MergedComposition, Saved
from genepool.composition.fitting import CoefficientFit, FitOptions
from genepool.composition.world import World

if TYPE_CHECKING:
    import torch


class AdaMergingOptions(FitOptions):
    """Options of AdaMerging."""

    by: Sharing = Field(
        default="tensor",
        description="What shares a coefficient: everything of a skill (task), the tensors of a layer, those of a role "
        "(attention, mlp, norm, ...), or nothing (tensor), which the authors call layer-wise.",
    )
    start: float = Field(default=0.3, ge=-10, le=10, description="Every coefficient at the beginning (the authors').")
    low: float = Field(default=0.0, ge=-10, le=10, description="Smallest coefficient.")
    high: float = Field(default=1.0, ge=-10, le=10, description="Largest coefficient.")


@register(
    "adamerging",
    source="Yang et al., AdaMerging, arXiv:2310.02575: start 0.3, Adam, clamped to 0..1, there by entropy at 1e-3 for "
    "500 steps; our default is to match each skill on its own task, at 1e-2",
    when="As the first thing to try: a few inputs of every task are there, and one model should do all of them.",
    needs="inputs",
    gradients=True,
    out="weights",
    cost="one forward and backward of the merged network for each task in a step; memory of one network",
)
class AdaMerging(Composer[AdaMergingOptions]):
    """`th_b = th0_b + sum_i c_ib t_ib`, where the coefficients c are learned by gradient.

    Coefficients are projected onto their range after each step: clamped inside the merge, they would have no gradient
    beyond it and could never return.
    """

    def fit(self, world: World) -> Composition:
        names = world.skills.vectors().names
        layout = CoefficientLayout(len(world.skills.skills), names)
        scales = SharedScales(layout, groups_of(world.skills.memory_base, names, self.options.by), self.options.start)
        named = {"composer": self.name, "options": self.options.model_dump(mode="json")}
        fitted = CoefficientFit(world, scales, layout, self.options, named, project=self._project).run()
        return MergedComposition(self, world.skills, fitted.record, fitted.coefficients)

    def restore(self, saved: Saved) -> Composition:
        return MergedComposition.restored(self, saved)

    def _project(self, learned: Mapping[str, torch.Tensor]) -> None:
        learned["scale"].clamp_(self.options.low, self.options.high)
