"""AdaMerging: how much of each skill goes into each tensor, learned from inputs without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field, model_validator

from genepool.composition.coefficients import CoefficientLayout, Parametrisation, SharedScales, Sharing, groups_of
from genepool.composition.composer import register
from genepool.composition.fitting import FitOptions
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.skill_set import SkillSet

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

    @model_validator(mode="after")
    def _a_range(self) -> AdaMergingOptions:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start must be from low to high, got {self.start:g}, {self.low:g} and {self.high:g}")
        return self


AdaOptions = TypeVar("AdaOptions", bound=AdaMergingOptions)


class ProjectedScales(LearnedMerge[AdaOptions]):
    """Coefficients that are shared as an option says, and projected onto their range after each step.

    Clamped inside the merge, they would have no gradient beyond the range and could never return.
    """

    def parametrised(self, skills: SkillSet, layout: CoefficientLayout, seed: int) -> Parametrisation:
        groups = groups_of(skills.memory_base, layout.names, self.options.by)
        return SharedScales(layout, groups, self.options.start)

    def project(self, learned: Mapping[str, torch.Tensor]) -> None:
        learned["scale"].clamp_(self.options.low, self.options.high)


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
class AdaMerging(ProjectedScales[AdaMergingOptions]):
    """`th_b = th0_b + sum_i c_ib t_ib`, where the coefficients c are learned by gradient, from 0 to 1."""
