"""Weights without training: the skill that a prompt moves furthest from the base knows what to do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.logits.fusing import FusionOptions, LogitComposer

if TYPE_CHECKING:
    from genepool.composition.logits.rules import FusionRule


class WeightedByShiftOptions(FusionOptions):
    """Options of weights by shift."""

    temperature: float = Field(
        default=0.1, gt=0, le=100, description="Temperature of the softmax over skills, in nats."
    )


@register(
    "weighted_by_shift",
    source="ours, and so is the temperature; docs/benchmarks.md has figures",
    when="Several skills of one base, no data to learn a router from, and whole models fit the memory.",
    needs="nothing",
    out="module",
    cost="nothing to fit; every model reads every token",
    skills=(2, None),
    members="models",
)
class WeightedByShiftComposer(LogitComposer[WeightedByShiftOptions]):
    """`base + sum_i w_i (skill_i - base)`, in logits, where a skill's weight is how far it moves from the base.

    `w = softmax(KL(skill_i || base) / temperature)`, taken at the prompt's end and kept for the answer: a skill that
    moves far from the base there knows what to do.
    """

    def rule(self, skills: int) -> FusionRule:
        from genepool.composition.logits.rules import WeightedByShift

        return WeightedByShift(skills, self.options.temperature)
