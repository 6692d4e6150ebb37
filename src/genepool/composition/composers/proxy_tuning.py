"""Proxy tuning: a large model decodes as if it were fine-tuned, steered by what fine-tuning did to small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.logits.fusing import LogitComposer, SmallBaseOptions

if TYPE_CHECKING:
    from genepool.composition.logits.rules import FusionRule


class ProxyTuningOptions(SmallBaseOptions):
    """Options of proxy tuning."""

    scale: float = Field(default=1.0, ge=-10, le=10, description="Factor of every skill's shift (the authors' 1).")


@register(
    "proxy_tuning",
    source="Liu et al., Proxy tuning, arXiv:2401.08565: scale 1; the base of the skills may be the model itself",
    when="A large model cannot be tuned, and small ones with its vocabulary can.",
    needs="nothing",
    out="module",
    cost="nothing to fit; every model reads every token",
    skills=(1, None),
    members="models",
)
class ProxyTuning(LogitComposer[ProxyTuningOptions]):
    """`base + scale sum_i (skill_i - small base)`, in logits, for every token."""

    def rule(self, skills: int) -> FusionRule:
        from genepool.composition.logits.rules import Shifted

        return Shifted((self.options.scale,) * skills, untuned=self.options.small_base is not None)
