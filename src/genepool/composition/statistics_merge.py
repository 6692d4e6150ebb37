"""Compositions that average skills by statistics of their own inputs: a calibration, then a merge method.

What is learned are the statistics, so the folder that `--keep` writes holds in `router.safetensors` the file of
statistics that a merge recipe can name. Uses `calibration` and merging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from genepool.composition.composer import Composer, ComposerOptions
from genepool.composition.composition import Composition, Saved
from genepool.composition.skill_set import SkillSet
from genepool.errors import InputError
from genepool.merging import Recipe, plan_merge
from genepool.merging.recipe_parts import ModelEntry
from genepool.tasks.models import Model
from genepool.tasks.network import Network
from genepool.weights import Change, ModelDifference, TensorWeights, Weights

if TYPE_CHECKING:
    import torch

# What the merge calls the base; skills have names without brackets of their own.
_BASE = "(base)"


class StatisticsOptions(ComposerOptions):
    """What every merge by statistics can be told."""

    weights: tuple[float, ...] = Field(
        default=(), description="One factor of its statistics for each skill, in their order; all 1 when empty."
    )


_Options = TypeVar("_Options", bound=StatisticsOptions)


class StatisticsMerge(Composer[_Options]):
    """A composer that calibrates each skill on its own task and leaves the rest to a merge method.

    Subclasses say `method` and its parameters, and compute the statistics in `fit`.
    """

    #: The merge method.
    method: str

    def method_parameters(self) -> dict[str, Any]:
        """What the merge method is told, beside the weights."""
        return {}

    def restore(self, saved: Saved) -> Composition:
        return MergedByStatistics(self, saved.skills, saved.record, saved.tensors, saved.where)

    def merged(
        self, skills: Mapping[str, Weights], base: Weights, statistics: Weights, keys: Mapping[str, str]
    ) -> Weights:
        """The merge of some tensors of the skills, read when they are asked for.

        Args:
            skills: the skills by name, in order.
            base: the same tensors of the base.
            statistics: named as `genepool.merging.statistics` reads them.
            keys: skill -> the fingerprint that stands in the names of its statistics.

        Raises:
            InputError: a statistic is missing or damaged, or there is not one weight for each skill.
        """
        weights = self.options.weights or (1.0,) * len(skills)
        if len(weights) != len(skills):
            raise InputError(
                f"got {len(weights)} weights for {len(skills)} skills", where="weights", fix="Give one for each skill"
            )
        entries = [ModelEntry(model=name, parameters={"weight": w}) for name, w in zip(skills, weights, strict=True)]
        recipe = Recipe(method=self.method, base=_BASE, models=entries, parameters=self.method_parameters())
        plan = plan_merge(recipe.located("options", None), {_BASE: base, **skills}, statistics=(statistics, keys))
        return plan.weights()


class MergedByStatistics(Composition):
    """Skills averaged by their statistics.

    Args:
        composer, skills, record: as for `Composition`.
        statistics: named as `genepool.merging.statistics` reads them.
        where: their file, for errors.
    """

    def __init__(
        self,
        composer: StatisticsMerge[Any],
        skills: SkillSet,
        record: Mapping[str, Any],
        statistics: Mapping[str, torch.Tensor],
        where: str = "statistics",
    ) -> None:
        super().__init__(composer, skills, record)
        self._statistics = dict(statistics)
        changes = zip(skills.skills, skills.memory_changes, strict=True)
        sources = {skill.name: change.applied(skill.name) for skill, change in changes}
        keys = {skill.name: skill.fingerprint for skill in skills.skills}
        self._merged = composer.merged(sources, skills.memory_base, TensorWeights(self._statistics, where), keys)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self._statistics

    def saved_tensors(self, hashes: Mapping[str, str]) -> Mapping[str, torch.Tensor]:
        parts = {name: name.split("/", 2) for name in self._statistics}
        return {
            f"{kind}/{hashes.get(key, key)}/{tensor}": self._statistics[name]
            for name, (kind, key, tensor) in parts.items()
        }

    def apply(self, network: Network) -> Model:
        network.assign(self.fold().applied(self.name))
        return network

    def fold(self) -> Change:
        self._merged.name = self.name
        return self.skills.on_base(ModelDifference(self._merged, self.skills.memory_base))
