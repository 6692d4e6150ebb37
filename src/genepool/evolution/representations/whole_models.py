"""Whole models: a genome is a birth, and children are held as the tensors that some skill moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genepool.evolution.breeding import FounderModels
from genepool.evolution.representations import register
from genepool.evolution.representations.births import BirthOptions, BirthRepresentation

if TYPE_CHECKING:
    from genepool.weights import Weights


class WholeModelsOptions(BirthOptions):
    """A population of whole models, from skills of any kind."""

    def settings(self) -> dict[str, Any]:
        return self.recorded("models")


@register("whole_models", noun="models")
class WholeModels(BirthRepresentation[WholeModelsOptions]):
    """A mix of children is the mix of their weights, also where the skills are adapters."""

    def hold_founders(
        self, base: Weights, founders: Mapping[str, Weights], dtype: str | None, held: str | None
    ) -> FounderModels:
        return FounderModels(base, founders, dtype, held)
