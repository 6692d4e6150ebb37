"""A process reward model: how good each step of an answer is, learned from how often the step led to a right one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import ObjectiveOptions
from genepool.training.objectives.reward_model import RewardModelObjective

if TYPE_CHECKING:
    import torch


class ProcessRewardOptions(ObjectiveOptions):
    """Options of `process_reward`."""

    hard_above: float | None = Field(
        default=None, ge=0, lt=1, description="Count labels above this as 1 and others as 0; null: labels are soft."
    )


class ProcessReward(RewardModelObjective):
    """Cross-entropy between sigmoid(r) and the label of a step, for both of its sides: good (label), bad (1 - label).

    r is a linear head on the last hidden state after the step, on what stands before it as the prompt. Labels are
    numbers from 0 to 1, such as the share of answers through the step that were right; true and false are 1 and 0. One
    set of factors is trained, without dropout.

    Example:
        >>> import torch
        >>> round(float(ProcessReward().step_losses(torch.tensor([0.0]), torch.tensor([0.25]))), 4)
        0.6931
    """

    name = "process_reward"
    source = (
        "Jiang et al., MedS3: Towards Medical Slow Thinking with Self-Evolved Soft Dual-sided Process Supervision, "
        "arXiv:2501.12051; hard_above is 0 in the authors' script"
    )
    when = "answers have steps, and it is known how often each led to a right one"
    reads_pairs = False
    reads_values = True
    Options: ClassVar[type[ObjectiveOptions]] = ProcessRewardOptions

    @property
    def sets_of_factors(self) -> int:
        return 1

    def step_losses(self, rewards: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of every step, shape (steps,), with gradients where the rewards have them.

        Args:
            rewards: r of each step, shape (steps,).
            labels: how good they are, from 0 to 1, shape (steps,).
        """
        import torch

        assert isinstance(self.options, ProcessRewardOptions)
        if self.options.hard_above is not None:
            labels = (labels > self.options.hard_above).to(rewards.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(rewards, labels, reduction="none")
