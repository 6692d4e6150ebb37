"""Per-role scales: how much of each skill, apart for attention, MLPs, norms, embeddings and heads."""

from __future__ import annotations

from pydantic import Field

from genepool.composition.coefficients import CoefficientLayout, Parametrisation, SharedScales, groups_of
from genepool.composition.composer import register
from genepool.composition.fitting import FitOptions
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.skill_set import SkillSet


class RoleScalesOptions(FitOptions):
    """Options of the scales."""

    start: float = Field(default=0.3, ge=-10, le=10, description="Every scale at the beginning; of `softmax`, ignored.")
    softmax: bool = Field(
        default=False,
        description="The scales of a role add up to 1 over the skills: a weighted mean, which starts even.",
    )


@register(
    "role_scales",
    source="ours",
    when="Very few inputs are there, or you want to see which parts of a model carry each skill.",
    needs="inputs",
    gradients=True,
    out="weights",
    cost="as adamerging",
)
class RoleScales(LearnedMerge[RoleScalesOptions]):
    """`th_b = th0_b + sum_i c_i,role(b) t_ib`."""

    def parametrised(self, skills: SkillSet, layout: CoefficientLayout, seed: int) -> Parametrisation:
        groups = groups_of(skills.memory_base, layout.names, "role")
        start = 0.0 if self.options.softmax else self.options.start
        return SharedScales(layout, groups, start, softmax=self.options.softmax)
