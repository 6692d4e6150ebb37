"""RegMean: each linear layer answers the inputs of every skill's task as nearly as possible as that skill does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from genepool.composition.calibration import (
    calibrated_layers,
    calibrations,
    gram_matrices,
    inputs_in_words,
    statistic_names,
)
from genepool.composition.composer import register
from genepool.composition.composition import Composition
from genepool.composition.linear_layers import outlined_layers
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.statistics_merge import MergedByStatistics, StatisticsMerge, StatisticsOptions
from genepool.composition.world import World

if TYPE_CHECKING:
    import torch


class RegMeanOptions(StatisticsOptions):
    """Options of RegMean."""

    off_diagonal: float = Field(
        default=0.9, ge=0, le=1, description="Factor of the Gram matrices' entries beside the diagonal."
    )


_Options = TypeVar("_Options", bound=RegMeanOptions)


class GramMerge(StatisticsMerge[_Options]):
    """A composer whose statistics are Gram matrices of inputs."""

    method = "regmean"

    def method_parameters(self) -> dict[str, Any]:
        return {"off_diagonal": self.options.off_diagonal}

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        changed = set(skills.vectors().names)
        layers = outlined_layers(skills.memory_base)
        entries = sum(layer.inputs**2 for name, layer in layers.items() if name in changed)
        # Those of one skill are in float64 while they are added up.
        return plan_kept(skills, 4 * entries * len(skills.skills) + 8 * entries, dtype=dtype)


@register(
    "regmean",
    source="Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv:2212.09849: "
    "off-diagonals times 0.9",
    when="A few inputs of every task are there, and no time for gradients.",
    needs="inputs",
    out="weights",
    cost="one forward pass for each example, and a linear system as wide as each layer; Gram matrices of all layers "
    "and skills are kept",
)
class RegMeanMerging(GramMerge[RegMeanOptions]):
    """`W^T = (sum_i G_i)^-1 sum_i G_i W_i^T` for every linear layer, `G_i = X_i^T X_i / N`; all else is the mean.

    X_i are the inputs of the layer in skill i on its own task. They are summed up in float64.
    """

    def fit(self, world: World) -> Composition:
        layers = calibrated_layers(world, world.skills.vectors().names)
        found: dict[str, torch.Tensor] = {}
        asked: dict[str, int] = {}
        for one in calibrations(world):
            found |= statistic_names(one.skill.fingerprint, layers, gram_matrices(one, layers))
            asked |= inputs_in_words(one.inputs)
        return MergedByStatistics(self, world.skills, {"asked": asked, "seed": world.seed}, found)
