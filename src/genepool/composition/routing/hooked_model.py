"""A network whose layers add experts while it answers, as a model of the base's kind that tasks can ask.

The weights of the skills are a function of each token, so all prompts are answered together, and reading with a cache
of keys and values equals reading at once. Uses `adapter_mixture` and tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from genepool.composition.composed_model import ComposedModel
from genepool.composition.routing.adapter_mixture import AdapterMixture
from genepool.composition.routing.shares import token_weights, used_skills
from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, Forced, Written
from genepool.tasks.environments import Spaces
from genepool.tasks.likelihoods import ContinuationLikelihood
from genepool.tasks.models import Model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.models.policy import Policy
from genepool.tasks.network import Network
from genepool.tasks.used_skills import UsedSkills
from genepool.weights import Weights

if TYPE_CHECKING:
    import numpy as np


class HookedModel(ComposedModel):
    """A base, changed in place from now on; `hooked_kind` gives the class for a kind of base.

    Args:
        base: the network.
        mixture: what its layers add.
        skill_names: of the experts.
        name: what the user calls the composition.
        fingerprint: of the composition.
    """

    def __init__(
        self, base: Network, mixture: AdapterMixture, skill_names: Sequence[str], name: str, fingerprint: str
    ) -> None:
        self.base, self.mixture, self.skill_names = base, mixture, list(skill_names)
        self._name, self._fingerprint = name, fingerprint

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """No config describes one."""
        return False

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Model:
        """Refused: weights alone do not choose."""
        raise InputError("weights alone do not choose by input", where=weights.name, fix="Name the composition")

    @property
    def model(self) -> Any:
        """The network."""
        return self.base.model

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.base.device

    @property
    def labels(self) -> tuple[str, ...]:
        """As the base's."""
        return self.base.labels

    @property
    def spaces(self) -> Spaces:
        """As the base's."""
        assert isinstance(self.base, Policy)
        return self.base.spaces

    def act(self, observations: np.ndarray) -> np.ndarray:
        """See `Actor.act`; an observation is a token."""
        assert isinstance(self.base, Policy)
        return self.base.act(observations)

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """As the base does."""
        return self.base.chat_text(messages)

    def write(
        self, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int = DEFAULT_BATCH
    ) -> list[Written]:
        """See `Model.write`."""
        return self.base.write(prompts, keys, decoding, batch_size)

    def forced_answers(
        self, prompts: Sequence[str], answers: Sequence[str], decoding: Decoding, strip: bool, batch_size: int
    ) -> list[Forced]:
        """See `Model.forced_answers`."""
        return self.base.forced_answers(prompts, answers, decoding, strip, batch_size)

    def loglikelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], batch_size: int = DEFAULT_BATCH
    ) -> list[ContinuationLikelihood]:
        """See `Model.loglikelihoods`."""
        return self.base.loglikelihoods(prompts, continuations, batch_size)

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        return self.base.class_scores(prompts, batch_size)

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`."""
        return self.base.hidden_states(prompts, batch_size)

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`."""
        return self.base.answer_batches(questions, batch_size, closed=closed, packed=packed)

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        return self.base.answer_logits(batch)

    def read(self, prompt: str) -> None:
        """Reads a prompt, for whoever watches the mixture."""
        self.base.hidden_states([prompt])

    def token_weights(self, prompt: str, answer: str = "") -> tuple[list[str], torch.Tensor]:
        """The tokens of a prompt and an answer, and the weights of the skills at each; see `token_weights`."""
        if not isinstance(self.base, LanguageModel):
            self._cannot("tell who answers token by token")
        return token_weights(self.base, self.base.model, self.mixture, prompt, answer)

    def skills_used(self, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
        """See `Model.skills_used`."""
        return used_skills(self, prompts, answers)

    def remove(self) -> None:
        """Makes the network the base again; the model must not be asked any more."""
        self.mixture.remove()


@functools.cache
def hooked_kind(base: type[Model]) -> type[HookedModel]:
    """The class of compositions that answer as a kind of model does, which can all that it can."""
    words = base.kind.split(" ", 1)[1]
    return type(
        f"Hooked{base.__name__}",
        (HookedModel,),
        {"kind": f"a token-routed {words}", "can": base.can, "reads": base.reads, "__doc__": f"A mixed {words}."},
    )
