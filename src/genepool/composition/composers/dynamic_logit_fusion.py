"""Dynamic logit fusion: how strongly small experts steer a large model is solved for at every token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.composition.composer import register
from genepool.composition.logits.fusing import LogitComposer, SmallBaseOptions

if TYPE_CHECKING:
    from genepool.composition.logits.rules import FusionRule


class DynamicLogitFusionOptions(SmallBaseOptions):
    """Options of dynamic logit fusion."""


@register(
    "dynamic_logit_fusion",
    source="Fan et al., On giant's shoulders, arXiv:2406.15480: factors in 0..2 at every token, 20 steps from those of "
    "the token before; with a single skill a bounded search",
    when="Several small experts, or a fixed factor that suits no token.",
    needs="nothing",
    out="module",
    cost="nothing to fit; every model reads every token, and 20 small steps a token find the factors",
    skills=(1, None),
    members="models",
)
class DynamicLogitFusion(LogitComposer[DynamicLogitFusionOptions]):
    """`base + sum_i a_i (skill_i - small base)`, with factors under which the base moves as far as the skills did."""

    def rule(self, skills: int) -> FusionRule:
        from genepool.composition.logits.rules import DynamicFusion

        return DynamicFusion(skills, untuned=self.options.small_base is not None)
