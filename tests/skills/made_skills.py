"""Tiny skills made in memory, and written as files in any form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genepool.weights import Change, Form
from genepool.weights.header import Header
from genepool.weights.skill_writer import write_skill

BASE = "b" * 64


class InMemory(Change):
    """Change that are held as tensors."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], header: Header | None = None) -> None:
        self.tensors, self.name = tensors, "in memory"
        self.header = header or Header(BASE, "org/base")

    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensors[name].float().reshape(self.matrix(name))[start:stop].clone()


def tensors(seed: int, layers: int = 3, side: int = 16, rank: int | None = None) -> dict[str, torch.Tensor]:
    """Random changes of a small model; of matrices of low rank, if a rank is given."""
    generator = torch.Generator().manual_seed(seed)

    def matrix() -> torch.Tensor:
        if rank is None:
            return torch.randn(side, side, generator=generator)
        return torch.randn(side, rank, generator=generator) @ torch.randn(rank, side, generator=generator)

    found = {f"model.layers.{i}.mlp.up_proj.weight": matrix() for i in range(layers)}
    return {**found, "model.norm.weight": torch.randn(side, generator=generator)}


def write(path: Path, changes: Mapping[str, torch.Tensor], form: Form | None = None, **header: Any) -> Path:
    """Writes a skill file."""
    form = form or Form("dense")
    path.parent.mkdir(parents=True, exist_ok=True)
    head = Header(BASE, "org/base", **header)
    return write_skill(InMemory(changes), path, form.name, form, head, threads=1).path


def skill(path: Path, seed: int = 0, **header: Any) -> Path:
    """Writes a skill file with random changes."""
    return write(path, tensors(seed), **header)
