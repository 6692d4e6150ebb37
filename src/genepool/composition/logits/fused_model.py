"""A fusion of language models that tasks can be asked, built of models in memory. Uses `fused_network` and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.composition.composed_model import ComposedLanguageModel
from genepool.errors import InputError
from genepool.tasks.decoding import continuation
from genepool.tasks.models.causal_lm import LanguageModel

if TYPE_CHECKING:
    from genepool.composition.logits.readers import Reader
    from genepool.composition.logits.rules import FusionRule
    from genepool.composition.logits.vocabulary_map import VocabularyMap


class FusedLanguageModel(ComposedLanguageModel):
    """A leading model whose predictions others change.

    Args:
        lead: reads and writes the tokens.
        others: the other models, in the order that the rule expects.
        rule: how the logits become one.
        name: what the user calls it.
        fingerprint: of the composition.
        prefix: a text that the other models alone read before each prompt.

    Raises:
        InputError: a model keeps something else of a prompt than keys and values.
    """

    kind = "a fusion of language models"

    def __init__(
        self,
        lead: LanguageModel,
        others: Sequence[LanguageModel],
        rule: FusionRule,
        name: str,
        fingerprint: str,
        prefix: str = "",
    ) -> None:
        from genepool.composition.logits.fused_network import FusedForCausalLM

        self.lead, self.others, self.prefix = lead, tuple(others), prefix
        readers = [self._reader(lead, ""), *(self._reader(other, prefix) for other in others)]
        super().__init__(lead, FusedForCausalLM(readers[0], readers[1:], rule).eval(), name, fingerprint)

    def _reader(self, model: LanguageModel, prefix: str) -> Reader:
        from genepool.composition.logits.readers import TextReader, TokenReader

        if not model.keeps_keys_and_values:
            raise InputError(
                "keeps something else of a prompt than keys and values, so it cannot be read beside others",
                where=model.title,
                fix="Use a model with attention alone",
            )
        vocabulary = self.vocabulary_map(model)
        if not vocabulary.one_to_one:
            if any(getattr(layer, "sliding_window", None) for layer in _layers_of_cache(model)):
                raise InputError(
                    "attends to a window of places, and another vocabulary leaves places out",
                    where=model.title,
                    fix="Use models of one vocabulary",
                )
            return TextReader(
                model.model, vocabulary, model.tokenizer, self.lead.tokenizer, prefix=prefix, context=model.context
            )
        # A token that begins every text stands before the prefix, and not behind it a second time.
        begins = next(iter(self.lead.encode_whole("")), None) if prefix else None
        return TokenReader(model.model, vocabulary, model.encode_whole(prefix) if prefix else (), begins)

    def vocabulary_map(self, model: LanguageModel) -> VocabularyMap:
        """From a model's vocabulary to the leading model's."""
        from genepool.composition.logits.vocabulary_map import VocabularyMap

        return VocabularyMap.between(
            model.tokenizer, model.vocabulary_size, self.lead.tokenizer, self.lead.vocabulary_size
        )

    @cached_property
    def context(self) -> int:
        """As many tokens as every model can read, behind its prefix."""
        rest = (other.context - len(other.encode_whole(self.prefix) if self.prefix else ()) for other in self.others)
        return max(1, min(self.lead.context, *rest)) if self.others else self.lead.context

    @cached_property
    def keeps_keys_and_values(self) -> bool:
        """Always; its models do."""
        return True

    @property
    def state_bytes_per_token(self) -> int:
        """Of all models."""
        return sum(model.state_bytes_per_token for model in (self.lead, *self.others))

    @property
    def logit_bytes(self) -> int:
        """Of all models, and of the fused logits in float64 while scales are searched for."""
        return (len(self.others) + 3) * 4 * self.vocabulary_size

    def uncovered(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Of each other model, the mean share of its predictions that the leading model has no tokens for.

        Args:
            prompts, answers: texts; predictions are those at the places of the answers' tokens.
        """
        return [self._uncovered(model, prompts, answers) for model in self.others]

    def _uncovered(self, model: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> float:
        import torch

        vocabulary = self.vocabulary_map(model)
        if vocabulary.equal:
            return 0.0
        total, places = 0.0, 0
        with torch.inference_mode():
            for prompt, answer in zip(prompts, answers, strict=True):
                head = model.encode(self.prefix + prompt)
                ids = [*head, *continuation(model, self.prefix + prompt, answer)][: model.context]
                logits = model.model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
                lost = vocabulary.uncovered(logits[len(head) - 1 :])
                total, places = total + float(lost.sum()), places + len(lost)
        return total / places


def _layers_of_cache(model: LanguageModel) -> Sequence[Any]:
    """The layers of what a model keeps of a prompt."""
    import torch

    with torch.inference_mode():
        ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        layers: Sequence[Any] = model.model(input_ids=ids, use_cache=True).past_key_values.layers
    return layers
