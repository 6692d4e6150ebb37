"""AdaMerging++: as AdaMerging, of skills whose small and disagreeing entries were removed."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.composers.adamerging import AdaMergingOptions, ProjectedScales
from genepool.composition.skill_set import SkillSet
from genepool.composition.trimmed import TrimmedVectors
from genepool.weights import Change


class AdaMergingPPOptions(AdaMergingOptions):
    """Options of AdaMerging++."""

    density: float = Field(
        default=0.2, gt=0, le=1, description="Share of its entries that each skill keeps, the largest (the authors')."
    )


@register(
    "adamerging_pp",
    source="Yang et al., AdaMerging, arXiv:2310.02575, with the task vectors of TIES (arXiv:2306.01708) at 20%",
    when="Instead of AdaMerging where many skills change the same entries in opposite directions.",
    needs="inputs",
    gradients=True,
    out="weights",
    cost="as adamerging, after four streaming passes over the skills",
)
class AdaMergingPP(ProjectedScales[AdaMergingPPOptions]):
    """`th_b = th0_b + sum_i c_ib p(t_i)_b`: p keeps the largest entries, and of those the ones of the elected sign."""

    def made_of(self, skills: SkillSet) -> Sequence[Change]:
        return TrimmedVectors(skills.vectors(), self.options.density).changes()
