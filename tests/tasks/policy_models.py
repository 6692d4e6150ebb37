"""Policies of random weights, whole folders, and tasks of episodes for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from genepool.tasks.environments import environments
from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape

POLE = environments()["cart_pole"].spaces


def policy(seed: int, *, kind: str = "cart_pole", size: float = 1.0, hidden: int = 6) -> PolicyNetwork:
    """A network of random weights."""
    spaces = environments()[kind].spaces
    made = PolicyNetwork(PolicyShape(spaces, hidden, 2, (1.0,) * spaces.observations)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return made


def write_policy(
    folder: Path, seed: int, *, kind: str = "cart_pole", near: Path | None = None, spoil: float | None = None
) -> Path:
    """A policy's folder; of weights a step away from another's, where that is named."""
    made = policy(seed, kind=kind)
    tensors = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    if near is not None:
        before = load_file(near / "model.safetensors")
        tensors = {name: before[name] + 0.3 * tensor for name, tensor in tensors.items()}
    if spoil is not None:
        tensors["head.weight"][0, 0] = spoil
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(made.shape.config()))
    return folder


def write_episodes(
    folder: Path,
    lines: Sequence[dict[str, Any]],
    *,
    splits: Sequence[str] = ("test",),
    settings: str = "metric: episode_return\nreturns: [0, 500]",
) -> Path:
    """A task's folder."""
    folder.mkdir(parents=True)
    for split in splits:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "task.yaml").write_text(settings + "\n")
    return folder
