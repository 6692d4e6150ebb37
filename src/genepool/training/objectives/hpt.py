"""Hybrid post-training: prompts that no sample solves are learned from their right answer, the others from samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import ObjectiveOptions
from genepool.training.objectives.grpo import centred
from genepool.training.rollout_objective import RolloutLikelihoods, RolloutObjective, RolloutOptions

if TYPE_CHECKING:
    import torch


class HptOptions(RolloutOptions):
    """Options of `hpt`."""

    gate: int = Field(
        default=0,
        ge=0,
        description="A prompt is learned from its right answer where at most so many of its samples are right.",
    )
    demonstration: float = Field(default=1.0, ge=0, description="Weight of the loss on right answers.")
    entropy: float = Field(
        default=0.001, ge=0, description="Weight of the entropy of every prediction, which is raised."
    )


class Hpt(RolloutObjective):
    """-A rho - entropy H of every token of the samples, with A = r - mean of their prompt; no clip, no divergence.

    Of a prompt whose samples are right at most `gate` times, by the task's metric, no sample is learned from. Its right
    answer is instead: -demonstration log p - entropy H of each token. The loss is the mean over the tokens of the
    samples plus the mean over the tokens of right answers; the authors divide the former by the longest length allowed
    instead. rho is the ratio of likelihoods to those at drawing, 1 unless `iterations` is above 1.

    Example:
        >>> import torch
        >>> Hpt().advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]])).tolist()
        [[0.75, -0.25, -0.25, -0.25]]
        >>> Hpt().is_taught(0), Hpt().is_taught(1)
        (True, False)
    """

    name = "hpt"
    source = (
        "Lv et al., Towards a Unified View of Large Language Model Post-Training, arXiv:2509.04419, and the authors' "
        "code: 8 samples, gate 0 (2 for Llama), weight 1 (0.3 for a model of 1.5 B), entropy 0.001"
    )
    when = "right answers are known, and the model solves some prompts and others never"
    teaches = True
    Options: ClassVar[type[ObjectiveOptions]] = HptOptions

    @property
    def needs_entropies(self) -> bool:
        assert isinstance(self.options, HptOptions)
        return self.options.entropy > 0

    @property
    def moves_all(self) -> bool:
        return self.needs_entropies

    def is_taught(self, solved: int) -> bool:
        assert isinstance(self.options, HptOptions)
        return solved <= self.options.gate

    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        return centred(rewards)

    def losses(self, tokens: RolloutLikelihoods) -> torch.Tensor:
        return self._less_entropy(-(tokens.policy - tokens.drawn).exp() * tokens.advantages, tokens)

    def teaching_losses(self, tokens: RolloutLikelihoods) -> torch.Tensor:
        assert isinstance(self.options, HptOptions)
        return self._less_entropy(-self.options.demonstration * tokens.policy, tokens)

    def _less_entropy(self, losses: torch.Tensor, tokens: RolloutLikelihoods) -> torch.Tensor:
        assert isinstance(self.options, HptOptions)
        return losses if tokens.entropies is None else losses - self.options.entropy * tokens.entropies
