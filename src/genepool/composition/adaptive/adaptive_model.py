"""A language model that is decoded at temperatures a head chooses, as tasks can ask it. Uses `tempered` and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.composition.composed_model import LanguageModelAroundOne
from genepool.tasks.models.causal_lm import LanguageModel

if TYPE_CHECKING:
    import torch


class AdaptiveLanguageModel(LanguageModelAroundOne):
    """A frozen model and its head. Asked at temperature 1 it draws at the head's; at 0 it is the model itself.

    Args:
        base: the model in memory; it is not changed.
        weight, bias: the head, (temperatures, width) and (temperatures,).
        temperatures: what it chooses among.
        whole: one choice for an answer instead of one a token.
        name: what the user calls it.
        fingerprint: of the composition.
    """

    kind = "an adaptively decoded language model"

    def __init__(
        self,
        base: LanguageModel,
        weight: torch.Tensor,
        bias: torch.Tensor,
        temperatures: Sequence[float],
        *,
        whole: bool,
        name: str,
        fingerprint: str,
    ) -> None:
        from genepool.composition.adaptive.tempered import HeadInputReader, TemperatureHead, Tempered
        from genepool.composition.logits.fused_network import FusedForCausalLM
        from genepool.composition.logits.vocabulary_map import VocabularyMap

        reader = HeadInputReader(base.model, VocabularyMap(None, base.vocabulary_size, True))
        rule = Tempered(temperatures, whole=whole)
        network = FusedForCausalLM(reader, [TemperatureHead(reader, weight, bias)], rule).eval()
        super().__init__(base, network, name, fingerprint)
