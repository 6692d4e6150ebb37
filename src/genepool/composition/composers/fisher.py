"""Fisher merging: skills are averaged entry by entry, each weighted by what its own task depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from genepool.composition.calibration import Labels, calibrations, fisher_information, inputs_in_words
from genepool.composition.composer import register
from genepool.composition.composition import Composition
from genepool.composition.inputs import labelled_inputs
from genepool.composition.kept_fit import KeptFit
from genepool.composition.loss_search import LossSearch, answers_loss
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.statistics_merge import MergedByStatistics, StatisticsMerge, StatisticsOptions
from genepool.composition.world import World
from genepool.threads import torch_threads
from genepool.training.run import sensible_threads

if TYPE_CHECKING:
    import numpy as np
    import torch

# Examples computed at once; of the first points of a search, the standard deviation (ours).
_BATCH, _SIGMA = 16, 0.25
# A merge needs one weight above 0.
_SMALLEST = 1e-3


class FisherOptions(StatisticsOptions):
    """Options of Fisher merging."""

    labels: Labels = Field(
        default="sampled",
        description="Whose gradients are squared: those of one label drawn from the model for each target (sampled), "
        "or of every class, weighted by its probability (expected; exact, for classifiers).",
    )
    normalize: bool = Field(default=True, description="Divide each skill's Fisher information by its L2 norm.")
    floor: float = Field(default=1e-6, ge=1e-30, description="Smallest Fisher information of an entry.")
    search: int = Field(
        default=0,
        ge=0,
        le=10**5,
        description="Weights that are tried, from 0 to 1 for each skill; those with the likeliest right answers are "
        "used (the paper searches 50). 0: use `weights` as they are.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> FisherOptions:
        if self.search and self.weights:
            raise ValueError("weights are given, and search looks for them: set one of the two")
        return self


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

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        vectors = skills.vectors()
        entries = sum(vectors.base.info(name).numel for name in vectors.names)
        return plan_kept(skills, 4 * entries * len(skills.skills), gradient=True, dtype=dtype)

    def fit(self, world: World) -> Composition:
        changed = set(world.skills.vectors().names)
        names = [name for name, _ in world.network.model.named_parameters() if name in changed]
        found: dict[str, torch.Tensor] = {}
        asked: dict[str, int] = {}
        for one in calibrations(world):
            fisher = fisher_information(one, names, self.options.labels)
            found |= {f"fisher/{one.skill.fingerprint}/{name}": values for name, values in fisher.items()}
            asked |= inputs_in_words(one.inputs)
        record: dict[str, Any] = {"asked": asked, "seed": world.seed}
        if not self.options.search:
            return MergedByStatistics(self, world.skills, record, found)
        with torch_threads(sensible_threads(world.skills.base)):
            weights, tried = self._searched(world, found)
        world.network.assign(world.skills.base)
        return MergedByStatistics(self._with(weights), world.skills, {**record, **tried}, found)

    def _with(self, weights: tuple[float, ...]) -> FisherMerging:
        """The same with other weights: what is saved says what was found."""
        return FisherMerging(self.options.model_copy(update={"weights": weights, "search": 0}))

    def _searched(
        self, world: World, statistics: Mapping[str, torch.Tensor]
    ) -> tuple[tuple[float, ...], dict[str, Any]]:
        """The weights whose merge finds the right answers likeliest, and how they were found."""
        import numpy as np

        skills, inputs = world.skills, labelled_inputs(world)
        network = world.network

        def loss(point: np.ndarray) -> float:
            merged = MergedByStatistics(self._with(_usable(point)), skills, {}, statistics)
            merged.apply(network)
            return answers_loss(network, inputs, _BATCH)

        named = {"composer": self.name, "options": self.options.model_dump(mode="json")}
        kept = KeptFit(world.work, {**world.identity(), **named, "tasks": [one.digest() for one in inputs]})
        start = np.full(len(skills.skills), 0.5)
        best, record = LossSearch(self.name, start, _SIGMA, (0.0, 1.0), self.options.search, world.seed).run(loss, kept)
        weights = _usable(best)
        return weights, {**record, "weights": dict(zip(skills.names, weights, strict=True))}


def _usable(point: np.ndarray) -> tuple[float, ...]:
    """Weights, of which at least one is above 0."""
    return tuple(max(float(one), _SMALLEST) for one in point)
