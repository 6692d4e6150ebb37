"""Objectives that learn from what the model itself writes and how that is rewarded: what they share.

`objectives` holds one file for each, `trainers.rollouts` computes what they ask for. Uses rewards.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from genepool.errors import InputError
from genepool.schema import PartError
from genepool.training.objectives import Objective, ObjectiveOptions
from genepool.training.rewards import Rewards

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenValues:
    """What a value head says of tokens; each tensor has the shape (tokens,).

    Attributes:
        now: the reward it expects from the token on, with gradients.
        drawn: the same at drawing.
        returns: what it should have expected.
    """

    now: torch.Tensor
    drawn: torch.Tensor
    returns: torch.Tensor


@dataclass(frozen=True)
class RolloutLikelihoods:
    """What is known of every token of some samples; each tensor has the shape (tokens,).

    Attributes:
        policy: log-likelihood in the model that is trained, with gradients.
        drawn: in the model that the sample was drawn from.
        reference: in the model as it began; None where nobody needs it.
        advantages: of the sample that the token belongs to.
        entropies: of all that the model which is trained predicts at the token, in nats, with gradients; None where
            nobody needs them.
        values: what a value head says at the token; None where nobody needs it.
    """

    policy: torch.Tensor
    drawn: torch.Tensor
    reference: torch.Tensor | None
    advantages: torch.Tensor
    entropies: torch.Tensor | None = None
    values: TokenValues | None = None


class RolloutOptions(ObjectiveOptions):
    """How samples are drawn and rewarded."""

    samples: int = Field(default=8, ge=2, le=4096, description="Samples of each prompt (the group).")
    temperature: float = Field(default=1.0, gt=0, le=100, description="At which tokens are drawn.")
    trained: int | None = Field(
        default=None,
        ge=1,
        description="The first N samples of each prompt are learned from; the others only vote; null: all are.",
    )
    reward: str | dict[str, float | dict[str, Any]] = Field(
        default="metric",
        description="A reward, or several with their weights: {metric: 1, majority: 0.5}; or with options, as "
        "{majority: {weight: 0.5, after: '='}}.",
    )
    iterations: int = Field(
        default=1, ge=1, le=1000, description="Steps that are taken on the same samples; `every` must be a multiple."
    )

    @field_validator("reward", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        # Before pydantic's own check: of two kinds of value it reports the first, and so asks for text where a number
        # is wrong.
        if isinstance(value, str | dict):
            try:
                Rewards(value)
            except InputError as error:
                _, _, inner = error.where.removeprefix("reward").partition(".")
                raise PartError(InputError(error.what, where=inner.replace(":", "."), fix=error.fix)) from None
        return value

    @model_validator(mode="after")
    def _some_are_trained(self) -> RolloutOptions:
        if self.trained is not None and self.trained > self.samples:
            raise ValueError(f"`trained` must be at most the number of samples ({self.samples}), got {self.trained}")
        return self

    @property
    def group(self) -> int:
        """Samples of each prompt that are learned from."""
        return self.trained or self.samples


class RolloutObjective(Objective):
    """A loss on what the model itself wrote and how good that was.

    Attributes:
        teaches: whether right answers may be learned instead of samples.
        per_sample: whether all samples count alike; else all tokens do, and a long sample counts more.
    """

    teaches: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    #: As for pairs: TRL begins with 1e-6 too.
    rate = 1 / 28
    Options: ClassVar[type[ObjectiveOptions]] = RolloutOptions

    @property
    def drawing(self) -> RolloutOptions:
        """How samples are drawn and rewarded."""
        assert isinstance(self.options, RolloutOptions)
        return self.options

    @property
    def needs_reference(self) -> bool:
        return self._rewards.needs_reference

    @property
    def _rewards(self) -> Rewards:
        return Rewards(self.drawing.reward)

    def settings(self) -> dict[str, Any]:
        told = super().settings()
        # A training without options of a reward is on record as it always was.
        return {**told, "reward": self._rewards.settings()} if self.models() else told

    def models(self) -> list[str]:
        return self._rewards.models()

    @property
    def needs_entropies(self) -> bool:
        """Whether the loss is made of entropies too."""
        return False

    @property
    def moves_all(self) -> bool:
        """Whether samples without an advantage have a gradient too."""
        return False

    def is_taught(self, solved: int) -> bool:
        """Whether a prompt is learned from its right answer instead of from its samples.

        Args:
            solved: how many of the samples the task's metric finds right.
        """
        return False

    def teaching_losses(self, tokens: RolloutLikelihoods) -> torch.Tensor:
        """The loss of every token of such right answers, shape (tokens,).

        Args:
            tokens: those of the answers; nothing was drawn, so `drawn` is `policy` and every advantage is 1.
        """
        return -tokens.policy

    @abstractmethod
    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        """How much better than the others of its prompt each sample is; 0 for one that could not be rewarded.

        Args:
            rewards: shape (prompts, samples), NaN where a reward failed.
        """

    @abstractmethod
    def losses(self, tokens: RolloutLikelihoods) -> torch.Tensor:
        """The loss of every token, shape (tokens,)."""


class ValuedRolloutObjective(RolloutObjective):
    """The same with a value head, which is trained beside the model: every token has an advantage of its own."""

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def moves_all(self) -> bool:
        return True

    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        """Zeros: samples have none, their tokens do."""
        return rewards.new_zeros(rewards.shape)

    @abstractmethod
    def token_advantages(
        self, reward: float, policy: torch.Tensor, reference: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """How much better than expected each token of one sample is, shape (tokens,), before they are whitened.

        Args:
            reward: of the sample.
            policy: log-likelihoods at drawing.
            reference: in the model as it began.
            values: what was expected of the rest of the sample from each token on.
        """
