"""A base whose skills weigh what the state of each prompt says, as a model of the base's kind that tasks can ask.

The skills are mixed in one of three spaces: their changes of the weights, what their models give (logits, or numbers to
act by), or what these mean (probabilities, or actions). A result is that of the prompt alone. Uses `mixing` and tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from genepool.composition.around_one import ModelAroundOne
from genepool.composition.context.states import PromptStates
from genepool.composition.mixing.mixtures import ChosenSkills, Shares
from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.environments import Spaces
from genepool.tasks.models import Model
from genepool.tasks.models.policy import Policy, actions_of
from genepool.tasks.network import Network
from genepool.tasks.used_skills import SHOWN, UsedSkills

if TYPE_CHECKING:
    import numpy as np

    from genepool.composition.mixing.mixtures import SkillMixture

#: Where the skills are mixed.
Space = Literal["parameter", "output", "action"]
#: States (rows, width) -> weights of the skills (rows, skills).
Weigh = Callable[[torch.Tensor], torch.Tensor]
# Below this no mixture of probabilities goes, whose logarithm is taken.
_LEAST = 1e-6


class BesideBase(Protocol):
    """Skills beside a network, such as `AttachedSkills`."""

    skills: int

    def mixing(self, mixture: SkillMixture | None) -> AbstractContextManager[None]:
        """Inside, passes get this mixture."""

    def remove(self) -> None:
        """Takes the skills off the network."""


@dataclass(frozen=True)
class StatedBatch(AnswerBatch):
    """Questions with the states of their prompts.

    Attributes:
        states: shape (questions, width).
    """

    states: torch.Tensor


class WeighedModel(ModelAroundOne):
    """A base with skills beside it; `weighed_kind` gives the class for a kind of base.

    Args:
        base: the network.
        attached: the skills.
        weigh: what they weigh.
        states: what is read of prompts.
        space: where they are mixed.
        skill_names: of the skills.
        name: what the user calls the composition.
        fingerprint: of the composition.
    """

    def __init__(
        self,
        base: Network,
        attached: BesideBase,
        weigh: Weigh,
        states: PromptStates,
        space: Space,
        skill_names: Sequence[str],
        name: str,
        fingerprint: str,
    ) -> None:
        super().__init__(base, name, fingerprint)
        self.attached, self._weigh, self._states, self.space = attached, weigh, states, space
        self.skill_names = list(skill_names)

    @property
    def model(self) -> Any:
        """The network."""
        return self.base.model

    @property
    def spaces(self) -> Spaces:
        """As the base's."""
        assert isinstance(self.base, Policy)
        return self.base.spaces

    def weights(self, prompts: Sequence[str]) -> torch.Tensor:
        """The weight of every skill for each prompt, shape (prompts, skills)."""
        with torch.no_grad():
            return self._finite(self._weigh(self._states.of(prompts)))

    def skills_used(self, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
        """See `Model.skills_used`."""
        rows = self.weights(prompts).tolist()
        named = [zip(self.skill_names, row, strict=True) for row in rows]
        return [UsedSkills({name: weight for name, weight in row if abs(weight) >= SHOWN}) for row in named]

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`; only where one network answers."""
        if self.space != "parameter":
            self._cannot("show its hidden states")
        return super().hidden_states(prompts, batch_size)

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        if self.space == "parameter":
            return super().class_scores(prompts, batch_size)
        found = []
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            scores = self._each(len(some), partial(self.base.class_scores, some, batch_size))
            found.append(self._joined(scores, self.weights(some)).log_softmax(-1))
        return torch.cat(found) if found else torch.zeros(0, len(self.labels))

    def act(self, observations: np.ndarray) -> np.ndarray:
        """See `Actor.act`."""
        assert isinstance(self.base, Policy)
        with torch.inference_mode():
            observed = self.base.read(observations)
            weights = self._weigh(self._states.of_layers(self.base.model.states(observed)))
            if self.space == "parameter":
                with self.attached.mixing(Shares(weights)):
                    return actions_of(self.base.model(observed), self.spaces)
            out = self._each(len(observed), lambda: self.base.model(observed).float())
            if self.space == "action" and not self.spaces.choices:
                acted = self._sum([self.spaces.bound * one.tanh() for one in out], weights)
                return acted.clamp(-self.spaces.bound, self.spaces.bound).cpu().numpy()
            return actions_of(self._joined(out, weights), self.spaces)

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`; a row has one question, whose state is the row's."""
        found: list[AnswerBatch] = []
        for plain in self.base.answer_batches(questions, batch_size, closed=closed, packed=False):
            states = self._states.of([questions[number].prompt for number in plain.numbers])
            found.append(StatedBatch(**vars(plain), states=states))
        return found

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`.

        Raises:
            InputError: another model made the batch.
        """
        weights = self.batch_weights(batch)
        if self.space == "parameter":
            with self.attached.mixing(Shares(weights)):
                return self.base.answer_logits(batch)
        with torch.no_grad():
            out = self._each(len(weights), lambda: self.base.answer_logits(batch))
        return self._joined(out, weights[batch.rows])

    def batch_weights(self, batch: AnswerBatch) -> torch.Tensor:
        """The weight of every skill for each question of a batch, with gradients.

        Raises:
            InputError: another model made the batch.
        """
        if not isinstance(batch, StatedBatch):
            raise InputError("the questions have no states", where=self.name, fix="Make the batch with this model")
        return self._weigh(batch.states)

    def remove(self) -> None:
        """Makes the network the base again; the model must not be asked any more."""
        self.attached.remove()

    @contextmanager
    def answering(self, prompts: Sequence[str]) -> Iterator[None]:
        """See `ModelAroundOne.answering`: every line of a pass gets the weights of its prompt."""
        if self.space != "parameter":
            self._cannot(f"write with skills that are mixed in {self.space} space")
        weights = self.weights(prompts)
        with self.base.listened(_ByPrompt(self.attached, weights)):
            yield

    def _each(self, rows: int, ask: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        """What the base and then each skill's model answer."""
        found = []
        for skill in range(-1, self.attached.skills):
            with self.attached.mixing(
                ChosenSkills(torch.full((rows,), skill, device=self.device), self.attached.skills)
            ):
                found.append(ask())
        return found

    def _joined(self, logits: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        """Logits of the mixture: of logits, or of probabilities.

        Args:
            logits: of the base and of each skill, shape (rows, choices).
            weights: shape (rows, skills).
        """
        if self.space == "output":
            return self._sum(logits, weights)
        shares = self._sum([one.softmax(-1) for one in logits], weights).clamp_min(_LEAST)
        return (shares / shares.sum(-1, keepdim=True)).log()

    @staticmethod
    def _sum(parts: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        """`x_0 + sum_i a_i (x_i - x_0)`, as the changes of weights are added up: 1 for one skill is that skill."""
        base, *skills = parts
        moved = torch.stack([one - base for one in skills], -1)
        return base + (moved * weights[:, None].to(moved)).sum(-1)

    def _finite(self, weights: torch.Tensor) -> torch.Tensor:
        if not bool(torch.isfinite(weights).all()):
            raise InputError("its context gives NaN or infinity", where=self.name, fix="Compose it again")
        return weights


class _ByPrompt:
    """Puts the weights of each line's prompt into every pass.

    Args:
        attached: the skills.
        weights: of each prompt, shape (prompts, skills).
    """

    def __init__(self, attached: BesideBase, weights: torch.Tensor) -> None:
        self._attached, self._weights = attached, weights

    def alike(self, request: int) -> Hashable:
        """Prompts of equal weights are read once where they are equal."""
        return tuple(self._weights[request].tolist())

    def passing(self, requests: Sequence[int]) -> AbstractContextManager[None]:
        """See `PassListener.passing`."""
        return self._attached.mixing(Shares(self._weights[list(requests)]))


@functools.cache
def weighed_kind(base: type[Model]) -> type[WeighedModel]:
    """The class of compositions that answer as a kind of model does, which can all that it can."""
    words = base.kind.split(" ", 1)[1]
    return type(
        f"Weighed{base.__name__}",
        (WeighedModel,),
        {"kind": f"a weighed {words}", "can": base.can, "reads": base.reads, "__doc__": f"A weighed {words}."},
    )
