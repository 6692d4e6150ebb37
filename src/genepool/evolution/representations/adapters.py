"""Adapters: a genome is a birth, and children are held as the factors of LoRA adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.evolution.breeding import FounderAdapters
from genepool.evolution.representations import register
from genepool.evolution.representations.births import BirthOptions, BirthRepresentation

if TYPE_CHECKING:
    from genepool.weights import Weights


class AdaptersOptions(BirthOptions):
    """A population of LoRA adapters of one base, of the same ranks on the same tensors."""

    def settings(self) -> dict[str, Any]:
        return self.recorded("adapters")


@register("adapters", noun="models")
class Adapters(BirthRepresentation[AdaptersOptions]):
    """A child is as small as one of the skills; a mix of factors keeps the rank, but is not the mix of the changes."""

    def hold_founders(
        self, base: Weights, founders: Mapping[str, Weights], dtype: str | None, held: str | None
    ) -> FounderAdapters:
        if not FounderAdapters.fits(founders):
            older = self.options.older
            raise InputError(
                "not all skills are LoRA adapters of the same ranks on the same tensors",
                where=f"{self.where}:{'breed.form' if older else self.options.place('kind')}",
                fix=f"Write `{'form: models' if older else 'kind: whole_models'}`, which takes any",
            )
        # Factors are always held in float32.
        return FounderAdapters(base, founders, dtype)
