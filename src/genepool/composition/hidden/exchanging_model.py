"""Language models that exchange hidden states, as one model that tasks can ask. Uses `logits` and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from genepool.composition.composed_model import ComposedLanguageModel
from genepool.composition.logits.fused_network import FusedForCausalLM
from genepool.composition.logits.readers import Reader, TokenReader
from genepool.composition.logits.rules import FusionRule
from genepool.composition.logits.vocabulary_map import VocabularyMap
from genepool.errors import InputError
from genepool.tasks.models.causal_lm import LanguageModel


class LeadAlone(FusionRule):
    """The logits of what reads, as they are."""

    def fuse(
        self, lead: torch.Tensor, others: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `FusionRule.fuse`."""
        return lead, None


class ExchangingLanguageModel(ComposedLanguageModel):
    """Models that read the same tokens, and what connects their layers.

    Args:
        lead: whose tokenizer it is.
        others: the other models.
        reader: reads with all of them.
        modules: what connects them; it is trained through the network of this model.
        name: what the user calls it.
        fingerprint: of the composition.
    """

    kind = "a composition of language models that exchange hidden states"

    def __init__(
        self,
        lead: LanguageModel,
        others: Sequence[LanguageModel],
        reader: Reader,
        modules: torch.nn.Module,
        name: str,
        fingerprint: str,
    ) -> None:
        network = FusedForCausalLM(reader, [], LeadAlone())
        network.networks.extend(other.model for other in others)
        network.connections = modules
        self.models = (lead, *others)
        super().__init__(lead, network.eval(), name, fingerprint)

    def answers_begin(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """Nothing: all places are treated alike."""
        return {}

    @cached_property
    def context(self) -> int:
        """As many tokens as every model can read."""
        return min(model.context for model in self.models)

    @cached_property
    def keeps_keys_and_values(self) -> bool:
        """Always; its models do, which is checked when it is made."""
        return True

    @property
    def state_bytes_per_token(self) -> int:
        """Of all models, and as much again for what connections keep."""
        return 2 * sum(model.state_bytes_per_token for model in self.models)


def readers_of(lead: LanguageModel, others: Sequence[LanguageModel], asker: str) -> list[TokenReader]:
    """Every model as a reader of the leading one's tokens, itself first.

    Args:
        lead, others: the models.
        asker: the composer, for errors.

    Raises:
        InputError: a model keeps something else of a prompt than keys and values, or has other tokens.
    """
    found = []
    for model in (lead, *others):
        check_kept(model)
        vocabulary = VocabularyMap.between(model.tokenizer, model.vocabulary_size, lead.tokenizer, lead.vocabulary_size)
        if not vocabulary.one_to_one:
            raise InputError(
                f"has other tokens than {lead.title}, so its layers have no place for each of that one's tokens",
                where=model.title,
                fix=f"Use models of one vocabulary for {asker}, or `genepool vocabulary transplant` one of them first",
            )
        found.append(TokenReader(model.model, vocabulary))
    return found


def check_kept(model: LanguageModel) -> None:
    """Refuses a model whose state is more than keys and values.

    Raises:
        InputError: it is.
    """
    if not model.keeps_keys_and_values:
        raise InputError(
            "keeps something else of a prompt than keys and values, so it cannot be read beside others",
            where=model.title,
            fix="Use a model with attention alone",
        )
