"""Emulated fine-tuning: the knowledge of a large model with the behaviour that small ones were tuned to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.logits.fusing import LogitComposer, SmallBaseOptions

if TYPE_CHECKING:
    from genepool.composition.logits.rules import FusionRule


class EmulatedFineTuningOptions(SmallBaseOptions):
    """Options of emulated fine-tuning."""

    scale: float = Field(default=1.0, ge=-10, le=10, description="Factor of the mean shift (1 in the paper).")
    keep: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Leave out tokens below this share of the base's likeliest one; 0 keeps all (the filter is ours).",
    )


@register(
    "emulated_fine_tuning",
    source="Mitchell et al., An emulator for fine-tuning, arXiv:2310.12962: up-scaling, factor 1; several behaviours "
    "are interpolated with equal weights",
    when="A small model was tuned, and its large sibling knows more.",
    needs="nothing",
    out="module",
    cost="nothing to fit; every model reads every token",
    skills=(1, None),
    members="models",
)
class EmulatedFineTuning(LogitComposer[EmulatedFineTuningOptions]):
    """`log p = log p_base + scale mean_i (log p_skill_i - log p_small_base)`, normalised, for every token."""

    def rule(self, skills: int) -> FusionRule:
        from genepool.composition.logits.rules import Shifted

        scales = (self.options.scale / skills,) * skills
        return Shifted(scales, untuned=self.options.small_base is not None, share=self.options.keep)
