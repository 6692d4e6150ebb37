"""The singular values of one adapter (ESSA): directions stay, how much of each is searched.

Uses the founders of adapters. Evaluating a candidate takes forward passes only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from genepool.errors import InputError
from genepool.evolution import older_keys
from genepool.evolution.breeding import FounderAdapters
from genepool.evolution.candidates import Candidate
from genepool.evolution.representations import register
from genepool.evolution.representations.base import Ingredients, PointRepresentation, Vary
from genepool.weights.tensor_info import dtype_code

if TYPE_CHECKING:
    import torch

    from genepool.evolution.study import Study
    from genepool.weights import Weights


class SingularValuesOptions(Vary):
    """Which singular values of the adapter's factors are searched, and in which range."""

    largest: int | None = Field(default=None, ge=1, description="Search only the N largest of each factor; null: all.")
    low: float = Field(default=0.0, ge=-1e6, description="Smallest number a singular value is multiplied by.")
    high: float = Field(default=2.0, le=1e6, description="Largest number a singular value is multiplied by.")

    @model_validator(mode="after")
    def _around_one(self) -> SingularValuesOptions:
        if not self.low < 1 < self.high:
            raise ValueError(f"the range ({self.low:g} to {self.high:g}) must hold 1, the adapter as it is")
        return self

    @property
    def how(self) -> str:
        return "new singular values"

    def settings(self) -> dict[str, Any]:
        return older_keys.recorded(singular=self.model_dump(mode="json", exclude={"kind"}))


@register("singular_values", noun="singular values")
class SingularValues(PointRepresentation[SingularValuesOptions]):
    """A genome is a factor for each of the largest singular values of each of the adapter's factors.

    The study's only skill is a LoRA adapter of the base.

    Attributes:
        names: of the genes: "model.layers.0.self_attn.q_proj.weight:A[2]", counted from the largest.
    """

    def __init__(self, found: Ingredients) -> None:
        super().__init__(found)
        (skill,) = found.study.skills
        base, adapter, dtype = found.base, found.skills[skill.model], found.study.dtype
        if not FounderAdapters.fits({skill.name: adapter}):
            raise InputError(
                "the skill is not a LoRA adapter, so it has no factors",
                where=f"{found.where}:skills",
                fix="Name a PEFT LoRA adapter as `base+adapter`, or make one with `genepool skill convert --to peft`",
            )
        self._name = skill.name
        self._founders = FounderAdapters(base, {skill.name: adapter}, None if dtype is None else dtype_code(dtype))
        self._count: dict[str, int] = {}
        for tensor in self._founders.infos:
            if tensor.endswith(":W"):
                continue
            values, largest = len(self._founders.spectrum(skill.name, tensor).values), self.options.largest
            self._count[tensor] = values if largest is None else min(values, largest)
        self.names = tuple(f"{tensor}[{i}]" for tensor, count in self._count.items() for i in range(count))
        if not self.names:
            raise InputError("the adapter changes nothing", where=f"{found.where}:skills", fix="Name a trained adapter")

    @classmethod
    def check(cls, study: Study) -> None:
        if len(study.skills) != 1:
            raise ValueError(f"{study.strategy.name} varies one adapter, got {len(study.skills)}")

    @property
    def start(self) -> np.ndarray:
        """The adapter as it is, shape (d,), in the unit cube."""
        low, high = self.options.low, self.options.high
        return np.full(len(self.names), (1 - low) / (high - low))

    def genome(self, one: np.ndarray, /) -> dict[str, Any]:
        low, high = self.options.low, self.options.high
        return {name: round(low + float(u) * (high - low), 6) for name, u in zip(self.names, one, strict=True)}

    def source(self, candidate: Candidate) -> Weights:
        tensors = self._tensors(candidate.genome)
        parts = [self._founders.fingerprint(), json.dumps(candidate.genome, sort_keys=True)]
        digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
        return self._founders.express(tensors, candidate.name, digest)

    def template(self) -> Weights:
        return self._founders.models[self._name]

    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str], *, overwrite: bool = True) -> None:
        from genepool.weights.writer import write_checkpoint

        values = json.dumps(dict(candidate.genome), indent=1) + "\n"
        files = {"README.md": self.card(candidate, sections), "singular_values.json": values}
        write_checkpoint(self.source(candidate), folder, overwrite=overwrite, extra_files=files)

    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        # Hundreds of genes make no table that anyone reads; the file beside the card has them all.
        lines = ["# Adapted model", "", f"`{self._name}` with other singular values, which `singular_values.json` has."]
        for title, text in sections.items():
            if title != "Genome":
                lines += ["", f"## {title}", "", text]
        return "\n".join(lines) + "\n"

    def _tensors(self, genome: Mapping[str, float]) -> dict[str, torch.Tensor]:
        import torch

        made = {}
        for tensor in self._founders.infos:
            count = self._count.get(tensor)
            if count is None:
                made[tensor] = self._founders.founder(self._name, tensor)
                continue
            left, values, right = self._founders.spectrum(self._name, tensor)
            factors = torch.ones_like(values)
            factors[:count] = torch.tensor([genome[f"{tensor}[{i}]"] for i in range(count)])
            made[tensor] = (left * (values * factors)) @ right
        return made
