"""Models in the form that their skills allow: a genome is a birth; what children are held as is seen when opened.

What a study that breeds models varies when it names no kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genepool.evolution.breeding import FounderAdapters, FounderModels, Founders
from genepool.evolution.representations import register
from genepool.evolution.representations.births import BirthOptions, BirthRepresentation

if TYPE_CHECKING:
    from genepool.weights import Weights


class ModelsOrAdaptersOptions(BirthOptions):
    """A population of adapters where all skills are LoRA adapters that fit together, else of whole models."""

    def settings(self) -> dict[str, Any]:
        return self.recorded("auto")


@register("models_or_adapters", noun="models")
class ModelsOrAdapters(BirthRepresentation[ModelsOrAdaptersOptions]):
    """Adapters take the least memory, so they are bred as such wherever that is possible."""

    def hold_founders(
        self, base: Weights, founders: Mapping[str, Weights], dtype: str | None, held: str | None
    ) -> Founders:
        fits = FounderAdapters.fits(founders)
        return FounderAdapters(base, founders, dtype) if fits else FounderModels(base, founders, dtype, held)
