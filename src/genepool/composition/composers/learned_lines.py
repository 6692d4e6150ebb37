"""Learned LiNeS: how much of each skill, by a line over depth of which both ends are learned."""

from __future__ import annotations

from pydantic import Field

from genepool.composition.coefficients import CoefficientLayout, DepthLine, Parametrisation, depths_of
from genepool.composition.composer import register
from genepool.composition.fitting import FitOptions
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.skill_set import SkillSet


class LearnedLinesOptions(FitOptions):
    """Options of learned LiNeS."""

    alpha: float = Field(default=0.3, ge=-10, le=10, description="The coefficient of the first layer at the beginning.")
    beta: float = Field(
        default=0.0, ge=-10, le=10, description="By how much the coefficient of the last layer is larger then."
    )


@register(
    "learned_lines",
    source="Wang et al., LiNeS, arXiv:2410.17146, where alpha and beta are chosen; learned here, start ours",
    when="Very few inputs are there: two numbers for each skill are learned.",
    needs="inputs",
    gradients=True,
    out="weights",
    cost="as adamerging",
)
class LearnedLines(LearnedMerge[LearnedLinesOptions]):
    """`th_b = th0_b + sum_i (alpha_i + beta_i l_b / (L - 1)) t_ib`, for tensor b in layer l of L."""

    def parametrised(self, skills: SkillSet, layout: CoefficientLayout, seed: int) -> Parametrisation:
        depths = depths_of(skills.memory_base, layout.names)
        return DepthLine(layout, depths, self.options.alpha, self.options.beta)
