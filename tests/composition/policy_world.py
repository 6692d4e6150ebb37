"""A base policy of random weights, LoRA skills that are small steps away from it, and episodes of two poles."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "tasks"))
from policy_models import write_episodes, write_policy

SKILLS = ("first", "second")
LENGTHS = {"first": 0.3, "second": 2.0, "other": 0.5}
RANK = 2


def write_adapter(folder: Path, base: Path, seed: int) -> Path:
    """A LoRA adapter on all layers of a policy, of random factors."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if tensor.dim() == 2:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            rows, columns = tensor.shape
            tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator)
            tensors[f"{module}.lora_B.weight"] = 0.5 * torch.randn(rows, RANK, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["layers.0", "layers.1", "head"],
        "base_model_name_or_path": str(base), "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def build(world: Path) -> Path:
    """base/, lora/{first,second}, tasks/{first,second,other}: episodes of 40 steps at most."""
    base = write_policy(world / "base", 0)
    for number, name in enumerate(SKILLS, 1):
        write_adapter(world / "lora" / name, base, number)
    for number, (name, length) in enumerate(LENGTHS.items()):
        lines = [
            {"environment": "cart_pole", "config": {"length": length, "steps": 40}, "seed": 10 * number + at}
            for at in range(6)
        ]
        write_episodes(
            world / "tasks" / name, lines, splits=("train", "test"),
            settings="metric: episode_return\nreturns: [0, 40]",
        )  # fmt: skip
    return world
