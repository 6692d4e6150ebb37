"""A composition around one network, as a model of the network's kind: what is asked passes through to the network.

Subclasses say what holds while it answers. Uses `composed_model` and tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from genepool.composition.composed_model import ComposedModel
from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, Forced, Written
from genepool.tasks.likelihoods import ContinuationLikelihood
from genepool.tasks.models import Model
from genepool.tasks.network import Network
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


class ModelAroundOne(ComposedModel):
    """A composition that answers by one network; it has the network's device, labels and chat template.

    Args:
        base: the network.
        name: what the user calls the composition.
        fingerprint: of the composition.
    """

    def __init__(self, base: Network, name: str, fingerprint: str) -> None:
        self.base, self._name, self._fingerprint = base, name, fingerprint

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """No config describes one."""
        return False

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Model:
        """Refused: weights alone are no composition."""
        raise InputError("weights alone are no composition", where=weights.name, fix="Name the composition's folder")

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.base.device

    @property
    def labels(self) -> tuple[str, ...]:
        """As the network's."""
        return self.base.labels

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """As the network does."""
        return self.base.chat_text(messages)

    def answering(self, prompts: Sequence[str]) -> AbstractContextManager[Any]:
        """What holds while these prompts are asked; nothing, unless a subclass says so."""
        return nullcontext()

    def write(
        self, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int = DEFAULT_BATCH
    ) -> list[Written]:
        """See `Model.write`."""
        with self.answering(prompts):
            return self.base.write(prompts, keys, decoding, batch_size)

    def forced_answers(
        self, prompts: Sequence[str], answers: Sequence[str], decoding: Decoding, strip: bool, batch_size: int
    ) -> list[Forced]:
        """See `Model.forced_answers`."""
        with self.answering(prompts):
            return self.base.forced_answers(prompts, answers, decoding, strip, batch_size)

    def loglikelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], batch_size: int = DEFAULT_BATCH
    ) -> list[ContinuationLikelihood]:
        """See `Model.loglikelihoods`."""
        with self.answering(prompts):
            return self.base.loglikelihoods(prompts, continuations, batch_size)

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        with self.answering(prompts):
            return self.base.class_scores(prompts, batch_size)

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`."""
        with self.answering(prompts):
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
