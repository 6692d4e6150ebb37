"""A reward model: a number for each answer, learned from pairs, by one set of factors or by several that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.training.objectives import Objective, ObjectiveOptions

if TYPE_CHECKING:
    import torch


class RewardModelOptions(ObjectiveOptions):
    """Options of `reward_model`."""

    members: int = Field(
        default=1, ge=1, le=64, description="Sets of factors with a head each; where they disagree, nobody knows."
    )
    diversity: float = Field(
        default=0.01, ge=0, description="Weight of how much the members differ, where there are several."
    )
    centre: float = Field(
        default=0.01, ge=0, description="Weight of the square of the sum of both rewards, which keeps rewards around 0."
    )


class RewardModelObjective(Objective):
    """-log sigmoid(r_w - r_l) + centre (r_w + r_l)^2 of each member and pair, minus diversity times a nuclear norm.

    r_w is the reward of the chosen answer, r_l that of the rejected one: a linear head on the last hidden state, after
    the whole answer. The nuclear norm is that of the matrices A of all members, stacked row on row, and the mean over
    the layers: it is the largest where their rows point in different directions. Dropout is off. Without `centre` each
    member could add a constant of its own to all rewards, and the members would differ for no reason.

    Example:
        >>> import torch
        >>> rewards = torch.tensor([1.0]), torch.tensor([0.0])
        >>> round(float(RewardModelObjective().losses(*rewards)), 4)
        0.3233
    """

    name = "reward_model"
    source = (
        "Bradley and Terry 1952; centre: Eisenstein et al., Helping or Herding?, arXiv:2312.09244: 0.01. Several "
        "members: Zhai et al., UP-RLHF, arXiv:2401.00243; their number and the weight of diversity are ours"
    )
    when = "there are pairs, and what a model writes is to be rewarded by them (reward reward_model)"
    reads_pairs = True
    factors_only = True
    Options: ClassVar[type[ObjectiveOptions]] = RewardModelOptions

    @property
    def sets_of_factors(self) -> int:
        """The members."""
        assert isinstance(self.options, RewardModelOptions)
        return self.options.members

    def losses(self, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """The loss of every pair, shape (pairs,), with gradients where the rewards have them.

        Args:
            chosen, rejected: the rewards that one member gives, shape (pairs,).
        """
        import torch

        assert isinstance(self.options, RewardModelOptions)
        apart = -torch.nn.functional.logsigmoid(chosen - rejected)
        return apart + self.options.centre * (chosen + rejected).square()

    def alikeness(self, stacked: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """What is added to the loss for members that are alike, with gradients; None where there is one member.

        Args:
            stacked: for each layer the matrices A of all members, row on row: shape (members x rank, inputs).
        """
        import torch

        assert isinstance(self.options, RewardModelOptions)
        if self.sets_of_factors == 1 or not self.options.diversity:
            return None
        norms = torch.stack([torch.linalg.matrix_norm(matrix.float(), ord="nuc") for matrix in stacked])
        return -self.options.diversity * norms.mean()
