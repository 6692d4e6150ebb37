"""RegMean++: layer by layer, on the inputs that a layer has behind the layers that are merged already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from genepool import progress
from genepool.composition.calibration import (
    SkillCalibration,
    calibrated_layers,
    calibrations,
    gram_matrices,
    inputs_in_words,
    running_order,
    statistic_names,
)
from genepool.composition.composer import register
from genepool.composition.composers.regmean import GramMerge, RegMeanOptions
from genepool.composition.composition import Composition
from genepool.composition.statistics_merge import MergedByStatistics
from genepool.composition.world import World
from genepool.merging import Recipe, plan_merge
from genepool.merging.recipe_parts import ModelEntry
from genepool.weights import TensorWeights, Weights
from genepool.weights.roles import infer_roles

if TYPE_CHECKING:
    import torch


class RegMeanPlusPlusOptions(RegMeanOptions):
    """Options of RegMean++."""

    off_diagonal: float = Field(
        default=0.95, ge=0, le=1, description="Factor of the Gram matrices' entries beside the diagonal."
    )


@register(
    "regmean_pp",
    source="RegMean++, arXiv:2508.03121: off-diagonals times 0.95 and 256 inputs in the authors' configuration",
    when="As RegMean, where a little more time gives a better model.",
    needs="inputs",
    out="weights",
    cost="a forward pass up to each block for each example; otherwise as RegMean",
)
class RegMeanPlusPlus(GramMerge[RegMeanPlusPlusOptions]):
    """RegMean, where X_i are the inputs of the layer behind the blocks that are merged already.

    Within a block the layers are those of skill i, as it would have answered. The merge is then that of RegMean.
    """

    def fit(self, world: World) -> Composition:
        calibrated = list(calibrations(world))
        merging = _BlockByBlock(self, world, calibrated)
        found: dict[str, torch.Tensor] = {}
        world.network.assign(world.skills.base)
        # In between, the network holds what no file does.
        with world.network.changing(()), progress.bar("merging block by block", len(merging.blocks), "blocks") as bar:
            merging.put_mean()
            for place in range(len(merging.blocks)):
                found |= merging.merge(place)
                bar.advance()
        world.network.assign(world.skills.base)
        asked = {name: count for one in calibrated for name, count in inputs_in_words(one.inputs).items()}
        return MergedByStatistics(self, world.skills, {"asked": asked, "seed": world.seed}, found)


class _BlockByBlock:
    """A network whose blocks become the merge one after the other, from its inputs on.

    Args:
        composer: what merges.
        world: the skills, and the network.
        calibrated: the skills with their inputs.

    Attributes:
        blocks: the linear layers of each block, by the name of their matrix, in the order in which they run.
    """

    def __init__(self, composer: RegMeanPlusPlus, world: World, calibrated: Sequence[SkillCalibration]) -> None:
        self._composer, self._world, self._calibrated = composer, world, calibrated
        skills = world.skills
        self._parameters = dict(world.network.model.named_parameters())
        self._base = skills.memory_base
        self._tuned = {
            one.name: change.applied() for one, change in zip(skills.skills, skills.memory_changes, strict=True)
        }
        self._names = [name for name in skills.vectors().names if name in self._parameters]
        self._block_of = {
            name: (role.stack, str(role.layer)) if role.layer is not None else ("", name.rpartition(".")[0])
            for name, role in infer_roles({name: self._base.info(name) for name in self._base.names()}).items()
        }
        layers = calibrated_layers(world, self._names)
        order = dict.fromkeys(self._block_of[name] for name in running_order(calibrated[0], layers))
        self.blocks = [{name: one for name, one in layers.items() if self._block_of[name] == key} for key in order]
        self._keys = list(order)

    def put_mean(self) -> None:
        """Puts the mean of all that lies in no block: embeddings before them, a norm behind them."""
        names = [name for name in self._names if self._block_of[name] not in self._keys]
        models = [ModelEntry(model=name, parameters={"weight": w}) for name, w in self._weights()]
        if names:
            self._put(plan_merge(Recipe(method="linear", models=models), self._tensors(names)).weights(), names)

    def merge(self, place: int) -> dict[str, torch.Tensor]:
        """Merges a block on the inputs that it has behind those before it, and puts it into the network.

        Returns:
            Its statistics, as merge methods read them.
        """
        names = [name for name in self._names if self._block_of[name] == self._keys[place]]
        later = [layer for block in self.blocks[place + 1 :] for layer in block.values()]
        found: dict[str, torch.Tensor] = {}
        for one in self._calibrated:
            self._put(self._tuned[one.skill.name], names)
            grams = gram_matrices(one, self.blocks[place], until=later)
            found |= statistic_names(one.skill.fingerprint, self.blocks[place], grams)
        keys = {one.skill.name: one.skill.fingerprint for one in self._calibrated}
        base = TensorWeights({name: self._base.read(name) for name in names}, "base")
        merged = self._composer.merged(self._tensors(names), base, TensorWeights(found, "statistics"), keys)
        self._put(merged, names)
        return found

    def _weights(self) -> list[tuple[str, float]]:
        weights = self._composer.options.weights or (1.0,) * len(self._tuned)
        return list(zip(self._tuned, weights, strict=True))

    def _tensors(self, names: Sequence[str]) -> dict[str, Weights]:
        return {
            skill: TensorWeights({name: tuned.read(name) for name in names}, skill)
            for skill, tuned in self._tuned.items()
        }

    def _put(self, weights: Weights, names: Sequence[str]) -> None:
        for name in names:
            self._parameters[name].data.copy_(weights.read(name))
