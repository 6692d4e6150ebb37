"""What a training step minimises: one file of this folder each, found by being there.

Of each kind of data there is one kind of objective. A `TargetObjective` turns a model and a batch of answers into one
loss per target (a token of an answer, or a class); an `AlignedObjective` does it with what a teacher of other tokens
predicts; a `PairObjective` turns the likelihoods of a better and a worse answer into one loss per pair; a
`LabelledObjective` turns the likelihoods of answers that are labelled good or bad into one loss per token, and a
`RolloutObjective` (`genepool.training.rollout_objective`) those of what the model wrote, and how it was rewarded. None
knows of parameters, steps or files: `genepool.training.trainers` computes what they ask for, and the loop
(`genepool.training.fit`) follows the gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import Field

from genepool.errors import InputError
from genepool.folder_classes import classes_by_name, of_name
from genepool.schema import Strict, validate

if TYPE_CHECKING:
    import torch

    from genepool.tasks import Model
    from genepool.tasks.answers import AnswerBatch
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
        reads_pairs: whether it learns from pairs of a better and a worse answer.
        reads_values: whether it learns how good answers are, by labels that are numbers.
        factors_only: whether it trains factors alone, never every tensor.
        equal_parts: whether it draws as many examples of each task for a step.
        at_odds: keys of a training file that do not go with it.
        Options: the model of its options.
        options: those it was made with.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    needs_teacher: ClassVar[bool] = False
    rate: ClassVar[float] = 1.0
    reads_pairs: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False
    factors_only: ClassVar[bool] = False
    equal_parts: ClassVar[bool] = False
    at_odds: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type[ObjectiveOptions]] = ObjectiveOptions

    def __init__(self, options: ObjectiveOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    @property
    def sets_of_factors(self) -> int:
        """How many are trained at once, where factors are."""
        return 1

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
    reads_pairs = True
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


Kind = TypeVar("Kind", bound=Objective)


def objectives() -> dict[str, type[Objective]]:
    """Every objective by name."""
    return classes_by_name(__name__, Objective)


def find_objective(name: str, options: Mapping[str, Any] | None = None, where: str = "--objective") -> Objective:
    """The objective of this name.

    Args:
        name: what the command line calls it.
        options: those that are not the defaults.
        where: for errors.

    Raises:
        InputError: there is none, and the nearest name is suggested; or an option is unknown or wrong.
    """
    kind = of_name(objectives(), "objective", name, where)
    return kind(validate(kind.Options, dict(options or {}), where))


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
