"""What a training step minimises: one file of this folder each, found by being there.

Of each kind of data there is one kind of objective. A `TargetObjective` turns a model and a batch of answers into one
loss per target (a token of an answer, or a class); an `AlignedObjective` does it with what a teacher of other tokens
predicts; a `PairObjective` turns the likelihoods of a better and a worse
answer into one loss per pair; a `LabelledObjective` turns the likelihoods of answers that are labelled good or bad into
one loss per token, and a `RolloutObjective` those of what the model wrote, and how it was rewarded. None knows of
parameters, steps or files: `genepool.training.trainers` computes what they ask for, and the loop
(`genepool.training.fit`) follows the gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import Field, field_validator, model_validator

from genepool.errors import InputError, nearest
from genepool.folder_classes import classes_of
from genepool.schema import PartError, Strict, validate

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch
    from genepool.training.rewards import Rewards
    from genepool.weights.control import Control


class Teacher(Protocol):
    """Whose predictions a model is compared with: another model, itself as it began, or predictions on record."""

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """What it predicts for every target of a batch; see `Model.answer_logits`."""


class ObjectiveOptions(Strict):
    """Options of an objective: none, unless it says some."""

    page = "reference/training"


class Objective(ABC):
    """What a step minimises.

    Args:
        options: its options; the defaults when None.

    Attributes:
        name: what the command line calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        needs_teacher: whether it compares with another model's predictions.
        rate: the default learning rate, as a part of that of supervised training.
        sets_of_factors: how many are trained at once.
        Options: the model of its options.
        options: those it was made with.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    needs_teacher: ClassVar[bool] = False
    rate: ClassVar[float] = 1.0
    sets_of_factors: ClassVar[int] = 1
    Options: ClassVar[type[ObjectiveOptions]] = ObjectiveOptions

    def __init__(self, options: ObjectiveOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the model as it was before the training."""
        return False

    @property
    def control(self) -> Control | None:
        """The control prefix that the result is asked with; None: as its base is asked."""
        return None

    def settings(self) -> dict[str, Any]:
        """Its options, defaults included, as plain data; a model stands by its fingerprint, wherever it lies."""
        return self.options.model_dump(mode="json")

    def models(self) -> list[str]:
        """The models that its options name."""
        return []


class TargetObjective(Objective):
    """A loss on the places of a batch where answers stand."""

    @property
    def own_answers(self) -> OwnAnswers | None:
        """Which answers the model writes itself, for objectives that learn from these; None: those of the data."""
        return None

    @abstractmethod
    def losses(
        self, model: Model, batch: AnswerBatch, teacher: Teacher | None = None, reference: Teacher | None = None
    ) -> torch.Tensor:
        """The loss of every target of a batch, shape (targets,), float32, with gradients where they are on.

        Args:
            model: the one that is trained.
            batch: examples and their targets, tokens or classes: `batch.owners` says whose each is.
            teacher: whose predictions it compares with, for objectives that need one.
            reference: the model as it was before the training, for objectives that need it.
        """


@dataclass(frozen=True)
class OwnAnswers:
    """Which answers a model in training writes itself, and how.

    Attributes:
        share: of the examples.
        temperature: at which tokens are drawn.
    """

    share: float
    temperature: float


class AlignedObjective(Objective):
    """A loss on what a teacher predicts, whose tokens may be others than the model's.

    Attributes:
        top: the teacher's likeliest tokens that count; None: all of them.
    """

    needs_teacher = True

    @property
    @abstractmethod
    def top(self) -> int | None:
        """The teacher's likeliest tokens that count; None: all of them."""

    @abstractmethod
    def losses(self, logs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The loss of every token, shape (tokens,), with gradients where `logs` has them.

        Args:
            logs: log-probabilities of the model, (tokens, choices).
            wanted: probabilities that it should have, (tokens, choices).
        """


@dataclass(frozen=True)
class PairLikelihoods:
    """What a model thinks of both answers of some pairs; each tensor has the shape (pairs,).

    Attributes:
        chosen, rejected: log-likelihood of the whole answer, natural logarithm, summed over its tokens.
        chosen_tokens, rejected_tokens: numbers of tokens, float32.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor

    def per_token(self) -> PairLikelihoods:
        """The same with means over the tokens instead of sums."""
        means = self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens
        return PairLikelihoods(*means, self.chosen_tokens, self.rejected_tokens)


class PairOptions(ObjectiveOptions):
    """The strength that all preferences share."""

    beta: float = Field(default=0.1, gt=0, description="How strongly the model is held near the one it began as.")


class PairObjective(Objective):
    """A loss on pairs of a better and a worse answer.

    Below, d is the log-ratio of an answer's likelihood in the model and in the model as it began, d_w of the chosen
    (won) and d_l of the rejected (lost) one.
    """

    #: Rafailov et al. and TRL begin with 1e-6 for models of a width of 4096, a 28th of what supervised training does.
    rate = 1 / 28
    Options: ClassVar[type[ObjectiveOptions]] = PairOptions

    def __init__(self, options: ObjectiveOptions | None = None) -> None:
        super().__init__(options)
        assert isinstance(self.options, PairOptions)
        self.beta = self.options.beta

    @property
    def needs_reference(self) -> bool:
        return True

    def rewards(self, policy: PairLikelihoods, reference: PairLikelihoods) -> tuple[torch.Tensor, torch.Tensor]:
        """beta d of the chosen and of the rejected answers, (pairs,) each: the rewards that the model stands for."""
        return self.beta * (policy.chosen - reference.chosen), self.beta * (policy.rejected - reference.rejected)

    @abstractmethod
    def losses(self, policy: PairLikelihoods, reference: PairLikelihoods) -> torch.Tensor:
        """The loss of every pair, shape (pairs,), with gradients where `policy` has them.

        Args:
            policy: of the model that is trained.
            reference: of the model as it was before.
        """


@dataclass(frozen=True)
class LabelledLikelihoods:
    """What is known of every token of some labelled answers; each tensor has the shape (tokens,).

    Attributes:
        policy: log-likelihood in the model that is trained, with gradients.
        rewards: of the answer that the token belongs to: 0 for an accepted one, -1 for a rejected one.
        values: what a value head expects of the reward before the token, with gradients; None where nobody needs it.
    """

    policy: torch.Tensor
    rewards: torch.Tensor
    values: torch.Tensor | None = None


class LabelledObjective(Objective):
    """A loss on answers of which each is labelled good (accepted) or bad (rejected).

    Attributes:
        needs_values: whether a value head is trained with it.
        ends_rejected: whether the token that ends an answer counts for rejected answers too.
    """

    needs_values: ClassVar[bool] = False
    ends_rejected: ClassVar[bool] = True

    @property
    def prefixes(self) -> tuple[str, str] | None:
        """What stands before accepted and before rejected answers, without a loss; None where nothing does."""
        return None

    @property
    def unprefixed(self) -> float:
        """The share of answers that are learned without a prefix."""
        return 0.0

    @abstractmethod
    def losses(self, tokens: LabelledLikelihoods) -> torch.Tensor:
        """The loss of every token, shape (tokens,), with gradients where `tokens.policy` has them."""


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
    """

    policy: torch.Tensor
    drawn: torch.Tensor
    reference: torch.Tensor | None
    advantages: torch.Tensor
    entropies: torch.Tensor | None = None


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
        from genepool.training.rewards import Rewards

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
    """

    teaches: ClassVar[bool] = False
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
        from genepool.training.rewards import Rewards

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


Kind = TypeVar("Kind", bound=Objective)


def objectives() -> dict[str, type[Objective]]:
    """Every objective by name."""
    return {kind.name: kind for kind in sorted(classes_of(__name__, Objective), key=lambda kind: kind.name)}


def find_objective(name: str, options: Mapping[str, Any] | None = None, where: str = "--objective") -> Objective:
    """The objective of this name.

    Args:
        name: what the command line calls it.
        options: those that are not the defaults.
        where: for errors.

    Raises:
        InputError: there is none, and the nearest name is suggested; or an option is unknown or wrong.
    """
    known = objectives()
    if name not in known:
        raise InputError(f"there is no objective '{name}'", where=where, fix=nearest(name, known))
    return known[name](validate(known[name].Options, dict(options or {}), where))


def target_objective(name: str) -> TargetObjective:
    """The objective of this name, which has a loss for every target of a batch, with its defaults.

    Raises:
        InputError: there is none.
    """
    found = find_objective(name)
    if not isinstance(found, TargetObjective):
        raise InputError(
            f"{name} does not learn from the answers of examples", where="--objective", fix="Use likelihood"
        )
    return found
