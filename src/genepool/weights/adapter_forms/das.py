"""DAS: the MLPs that a task needs least are skipped, and a small adapter stands in their place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.weights.adapter_forms.parallel_adapter import bottleneck, bottleneck_begin, bottleneck_shapes
from genepool.weights.formed.adapter_form import Beginning, FormOptions, NetworkForm, Shapes
from genepool.weights.formed.sites import ModelSites

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.weights.formed.attached import Attached


class DasOptions(FormOptions):
    """Options of DAS."""

    skip: int = Field(default=1, ge=1, le=1000, description="How many MLPs are skipped.")
    bottleneck: int = Field(default=64, ge=1, le=65536, description="Hidden entries of the adapters.")
    rounds: int = Field(default=32, ge=1, le=10_000, description="Rounds of the bandit before the training.")
    examples: int = Field(default=16, ge=1, le=10_000, description="Training examples that a round is judged on.")


class Das(NetworkForm):
    """A bandit chooses which MLPs to skip; each chosen one computes up(relu(down(x))) and no longer MLP(x).

    Each round skips `skip` MLPs, drawn by the softmax of what is known of them, and its reward is exp(-loss) on the
    training examples. An MLP's worth is what skipping it adds to the reward, by least squares over all rounds.
    """

    name = "das"
    source = "Wu et al., Dynamic Architecture Skipping (arXiv:2309.01479), from the text; least squares are ours"
    when = "A model that should be faster on one task: fewer MLPs, a few trained numbers instead."
    why_not = "an MLP is replaced by a smaller one, which the model's class has no place for"
    traps = (
        "The bandit plays before the training, not during it, and skips MLPs alone: an attention that is skipped "
        "would leave the cache of a model that writes behind. `compose` and merges do not take the result."
    )
    Options = DasOptions
    options: DasOptions

    def shapes(self, sites: ModelSites) -> Shapes:
        mlps = sites.mlps
        if any(mlp.box is None for mlp in mlps):
            raise InputError(
                "its MLPs are no modules of their own, so they cannot be skipped",
                where=sites.where,
                fix="Use parallel_adapter",
            )
        if self.options.skip >= len(mlps):
            raise InputError(
                f"has {len(mlps)} MLPs, so {self.options.skip} cannot be skipped",
                where=sites.where,
                fix="Set fewer: --set form.skip=1",
            )
        if len({mlp.first.inputs for mlp in mlps}) > 1:
            raise InputError("has MLPs of several widths", where=sites.where, fix="Use parallel_adapter")
        found: Shapes = {"skipped": (self.options.skip,)}
        for slot in range(self.options.skip):
            found |= bottleneck_shapes(f"slot.{slot}", mlps[0].first.inputs, self.options.bottleneck)
        return found

    def frozen(self, name: str) -> bool:
        return name == "skipped"

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        shapes = self.shapes(beginning.sites)
        found = bottleneck_begin(beginning, {name: shape for name, shape in shapes.items() if name != "skipped"})
        return {**found, "skipped": torch.tensor(self._played(beginning), dtype=torch.float32)}

    def _played(self, beginning: Beginning) -> list[int]:
        """The MLPs that the bandit chose, in order."""
        import numpy as np

        boxes = [str(mlp.box) for mlp in beginning.sites.mlps]
        skipped, rewards = np.zeros((self.options.rounds, len(boxes))), np.zeros(self.options.rounds)
        for number in range(self.options.rounds):
            worth = _worth(skipped[:number], rewards[:number])
            # What no round has skipped yet is tried first.
            worth[skipped[:number].sum(0) == 0] = np.inf
            draws = numpy_generator(beginning.seed, "das", number).gumbel(size=len(boxes))
            arms = np.argsort(-(worth + draws), kind="stable")[: self.options.skip]
            skipped[number, arms] = 1
            loss = beginning.loss_without([boxes[arm] for arm in sorted(arms)], self.options.examples)
            rewards[number] = math.exp(-loss)
        order = np.argsort(-_worth(skipped, rewards), kind="stable")
        return sorted(int(arm) for arm in order[: self.options.skip])

    def attach(self, attached: Attached) -> None:
        mlps = attached.sites.mlps
        chosen = attached.tensors["skipped"].long().tolist()
        if sorted(set(chosen)) != chosen or not all(0 <= one < len(mlps) for one in chosen):
            raise InputError(
                "names MLPs that are not there, or one twice", where="tensors.safetensors:skipped", fix="Train it again"
            )
        for slot, layer in enumerate(chosen):

            def small(_plain: object, x: torch.Tensor, *_: Any, name: str = f"slot.{slot}") -> torch.Tensor:
                return bottleneck(attached, name, x)

            attached.replace(str(mlps[layer].box), small)


def _worth(skipped: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """What skipping each MLP adds to the reward, in standard deviations of the rewards, (MLPs,).

    Args:
        skipped: 1 where a round skipped an MLP, (rounds, MLPs).
        rewards: (rounds,).
    """
    import numpy as np

    if len(rewards) < 2 or not (spread := float(np.std(rewards))):
        return np.zeros(skipped.shape[1])
    # A ridge of one hundredth: no round is needed to tell apart what was always skipped together.
    return np.linalg.solve(
        skipped.T @ skipped + 0.01 * np.eye(skipped.shape[1]), skipped.T @ ((rewards - rewards.mean()) / spread)
    )
