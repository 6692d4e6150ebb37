"""Fisher merging: skills are averaged entry by entry, each weighted by what its own task depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.composition.calibration import Labels, calibrations, fisher_information, inputs_in_words
from genepool.composition.composer import register
from genepool.composition.composition import Composition
from genepool.composition.statistics_merge import MergedByStatistics, StatisticsMerge, StatisticsOptions
from genepool.composition.world import World

if TYPE_CHECKING:
    import torch


class FisherOptions(StatisticsOptions):
    """Options of Fisher merging."""

    labels: Labels = Field(
        default="sampled",
        description="Whose gradients are squared: those of one label drawn from the model for each target (sampled), "
        "or of every class, weighted by its probability (expected; exact, for classifiers).",
    )
    normalize: bool = Field(default=True, description="Divide each skill's Fisher information by its L2 norm.")
    floor: float = Field(default=1e-6, ge=1e-30, description="Smallest Fisher information of an entry.")


@register(
    "fisher",
    source="Matena & Raffel, Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832: labels drawn from the "
    "model, floor 1e-6",
    when="A few inputs of every task are there, and a mean of the skills is wanted that spares what each depends on.",
    needs="inputs",
    gradients=True,
    out="weights",
    cost="one forward and backward pass for each example; as many numbers as the skills have are kept",
)
class FisherMerging(StatisticsMerge[FisherOptions]):
    """`sum_i w_i F_i th_i / sum_i w_i F_i`, where F_i is the diagonal of skill i's Fisher information on its own task.

    F is the mean over examples of squared gradients, each of one example by itself, with labels that the skill itself
    gives. The square of a mean gradient would be nearly zero for a trained model.
    """

    method = "fisher"

    def method_parameters(self) -> dict[str, Any]:
        return {"normalize": self.options.normalize, "floor": self.options.floor}

    def fit(self, world: World) -> Composition:
        changed = set(world.skills.vectors().names)
        names = [name for name, _ in world.network.model.named_parameters() if name in changed]
        found: dict[str, torch.Tensor] = {}
        asked: dict[str, int] = {}
        for one in calibrations(world):
            fisher = fisher_information(one, names, self.options.labels)
            found |= {f"fisher/{one.skill.fingerprint}/{name}": values for name, values in fisher.items()}
            asked |= inputs_in_words(one.inputs)
        return MergedByStatistics(self, world.skills, {"asked": asked, "seed": world.seed}, found)
