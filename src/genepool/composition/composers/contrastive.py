"""Contrastive decoding: the skill writes what it finds likelier than its base does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.logits.fusing import FusionOptions, LogitComposer

if TYPE_CHECKING:
    from genepool.composition.logits.rules import FusionRule
    from genepool.tasks.models import Source


class ContrastiveOptions(FusionOptions):
    """Options of contrastive decoding."""

    scale: float = Field(default=1.0, ge=-10, le=10, description="Factor of the difference.")
    keep: float = Field(
        default=0.1, ge=0, lt=1, description="Leave out tokens below this share of the skill's likeliest one."
    )


@register(
    "contrastive",
    source="Li et al., Contrastive decoding, arXiv:2210.15097: tokens with a tenth of the likeliest one's chance are "
    "kept; the skill's own logits and the difference are added up as in O'Brien and Lewis, arXiv:2309.09117",
    when="One skill, to be had more strongly than it was trained; or a large model against a small one.",
    needs="nothing",
    out="module",
    cost="nothing to fit; the skill and the base read every token",
    skills=(1, 1),
    members="models",
)
class Contrastive(LogitComposer[ContrastiveOptions]):
    """`skill + scale (skill - base)`, in logits, over the tokens that the skill finds plausible."""

    def parts(self, base: Source, skills: Sequence[Source]) -> tuple[Source, list[Source]]:
        """The skill leads: what is plausible and how tokens are numbered is its matter."""
        return skills[0], [base]

    def rule(self, skills: int) -> FusionRule:
        from genepool.composition.logits.rules import Shifted

        # Shifting towards the base by a factor below zero is shifting away from it.
        return Shifted((-self.options.scale,), untuned=False, share=self.options.keep)
