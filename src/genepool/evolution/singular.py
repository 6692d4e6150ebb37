"""Singular values of one adapter as what a study varies (ESSA): directions stay, how much of each is searched.

Uses the stock of adapters; the driver and every worker hold one. Evaluating a candidate takes forward passes only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genepool.errors import InputError
from genepool.evolution.breeding import AdapterStock
from genepool.evolution.candidates import Candidate
from genepool.evolution.grounds import Ground
from genepool.weights.adapter import LoraOnBase

if TYPE_CHECKING:
    import torch

    from genepool.evolution.study import Singular
    from genepool.weights import Weights


class SingularGround(Ground):
    """A genome is a factor for each of the largest singular values of each of the adapter's factors.

    Args:
        base: the base.
        name: the skill's name.
        adapter: the skill: a LoRA adapter on that base.
        settings: how many values, and the range of their factors.
        dtype: safetensors name of the type candidates are held in; as the base when None.
        where: the study file, for errors.

    Attributes:
        names: of the genes: "model.layers.0.self_attn.q_proj.weight:A[2]", counted from the largest.
    """

    def __init__(
        self, base: Weights, name: str, adapter: Weights, settings: Singular, dtype: str | None, where: str
    ) -> None:
        if not isinstance(adapter, LoraOnBase) or not AdapterStock.fits(base, {name: adapter}):
            raise InputError(
                "not a LoRA adapter, so it has no factors whose singular values could be searched",
                where=f"{where}:skills",
                fix="Name a PEFT LoRA adapter as `base+adapter`, or make one with `genepool skill convert --to peft`",
            )
        self._stock, self._name, self._settings = AdapterStock(base, {name: adapter}, dtype), name, settings
        self._count: dict[str, int] = {}
        for tensor in self._stock.infos:
            if tensor.endswith(":W"):
                continue
            found = len(self._stock.spectrum(name, tensor).values)
            self._count[tensor] = found if settings.largest is None else min(found, settings.largest)
        self.names = tuple(f"{tensor}[{i}]" for tensor, count in self._count.items() for i in range(count))
        if not self.names:
            raise InputError("the adapter changes nothing", where=f"{where}:skills", fix="Name a trained adapter")

    @property
    def start(self) -> np.ndarray:
        """The adapter as it is, shape (d,), in the unit cube."""
        low, high = self._settings.low, self._settings.high
        return np.full(len(self.names), (1 - low) / (high - low))

    def genome(self, one: np.ndarray, /) -> dict[str, Any]:
        low, high = self._settings.low, self._settings.high
        return {name: round(low + float(u) * (high - low), 6) for name, u in zip(self.names, one, strict=True)}

    def weights(self, candidate: Candidate) -> Weights:
        tensors = self._tensors(candidate.genome)
        parts = [self._stock.fingerprint(), json.dumps(candidate.genome, sort_keys=True)]
        return self._stock.express(tensors, candidate.name, _digest(parts))

    def model(self) -> Weights:
        return self._stock.founders[self._name]

    def write(self, candidate: Candidate, folder: Path, sections: Mapping[str, str]) -> None:
        from genepool.weights.writer import write_checkpoint

        files = {"README.md": self.card(candidate, sections), "singular_values.json": _json(candidate.genome)}
        write_checkpoint(self.weights(candidate), folder, overwrite=True, extra_files=files)

    def card(self, candidate: Candidate, sections: Mapping[str, str]) -> str:
        # Hundreds of genes make no table that anyone reads; the file beside the card has them all.
        lines = ["# Adapted model", "", f"`{self._name}` with other singular values, which `singular_values.json` has."]
        for title, text in sections.items():
            if title != "Genome":
                lines += ["", f"## {title}", "", text]
        return "\n".join(lines) + "\n"

    def record(self, candidate: Candidate) -> dict[str, Any]:
        return {}

    def _tensors(self, genome: Mapping[str, float]) -> dict[str, torch.Tensor]:
        import torch

        made = {}
        for tensor in self._stock.infos:
            count = self._count.get(tensor)
            if count is None:
                made[tensor] = self._stock.founder(self._name, tensor)
                continue
            left, values, right = self._stock.spectrum(self._name, tensor)
            factors = torch.ones_like(values)
            factors[:count] = torch.tensor([genome[f"{tensor}[{i}]"] for i in range(count)])
            made[tensor] = (left * (values * factors)) @ right
        return made


def _digest(parts: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _json(genome: Mapping[str, float]) -> str:
    return json.dumps(dict(genome), indent=1) + "\n"
