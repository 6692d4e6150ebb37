"""Compositions in memory: what all of them have in common, and what those that decode as a language model do.

A composition holds several models, or more than weights, so nothing can be assigned to it. The network of one that
decodes treats a prompt and its answer differently, so it is told where answers begin. Uses tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.models import Capability, Model, Source, WeightsSource
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch


class ComposedModel(Model):
    """What every composition in memory has: a name and a fingerprint of its own, and no weights to be replaced.

    Subclasses set `_name` and `_fingerprint`.
    """

    _name: str
    _fingerprint: str

    @property
    def name(self) -> str:
        """Of the composition."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Of the composition."""
        return self._fingerprint

    def assign(self, weights: Weights) -> None:
        """Refused."""
        raise InputError("a composition takes no other weights", where=self.name, fix="Load it as a new model")

    @contextmanager
    def changing(self, names: Collection[str]) -> Iterator[dict[str, torch.nn.Parameter]]:
        """Refused."""
        raise InputError("a composition cannot be trained", where=self.name, fix="Train the base or a skill")
        yield {}  # type: ignore[unreachable]  # a generator, as the method that it replaces


class ComposedLanguageModel(ComposedModel, LanguageModel):
    """A composition whose network writes with the tokens of one of its models.

    Args:
        lead: the model that reads and writes the tokens.
        network: called like one of transformers' causal language models, and also with `answer_starts`.
        name: what the user calls the composition.
        fingerprint: of the composition.
    """

    kind = "a composition of language models"
    can: ClassVar[frozenset[Capability]] = frozenset({"text", "likelihoods"})

    def __init__(self, lead: LanguageModel, network: Any, name: str, fingerprint: str) -> None:
        super().__init__(lead._held(), network, lead.tokenizer)
        self._name, self._fingerprint, self._lead_rows = name, fingerprint, lead.token_rows

    @property
    def token_rows(self) -> int:
        """See `TokenizedNetwork.token_rows`; of the model whose tokens they are."""
        return self._lead_rows

    @property
    def rows_may_leave(self) -> bool:
        """See `LanguageModel.rows_may_leave`; a composition may remember more of its rows than keys and values."""
        return False

    def answers_begin(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """See `LanguageModel.answers_begin`."""
        import torch

        return {"answer_starts": torch.tensor(list(places), device=self.device)}

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`; a row has one question, since only one place can be where its answer begins."""
        return super().answer_batches(questions, batch_size, closed=closed, packed=False)

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """Refused: several models have several."""
        self._cannot("show its hidden states")


def check_plain_models(sources: Sequence[Source], asker: str) -> None:
    """Refuses models that cannot be read beside others, before anything is loaded.

    Args:
        sources: the models.
        asker: the composer, for errors.

    Raises:
        InputError: one is no causal language model, or is a composition itself.
    """
    for source in sources:
        if source.kind is not LanguageModel or not isinstance(source, WeightsSource):
            raise InputError(
                f"{asker} needs {LanguageModel.kind}, got {source.kind.kind}",
                where=source.name,
                fix="Name models with weights of their own",
            )


class LanguageModelAroundOne(ComposedLanguageModel):
    """A composition around one language model, which is not changed.

    Args:
        base: the model in memory.
        network, name, fingerprint: as for `ComposedLanguageModel`.
    """

    def __init__(self, base: LanguageModel, network: Any, name: str, fingerprint: str) -> None:
        super().__init__(base, network, name, fingerprint)
        self.base = base

    @cached_property
    def keeps_keys_and_values(self) -> bool:
        """As the model does."""
        return self.base.keeps_keys_and_values
