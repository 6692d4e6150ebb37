"""A model whose weights hold NaN answers all the same, and every command that asks it says so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import write_model

Cli = Callable[..., Any]


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A model with one NaN, in its last layer."""
    folder = write_model(tmp_path / "spoiled")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = math.nan
    save_file(tensors, file, {"format": "pt"})
    return folder


def test_what_asks_it_warns_and_names_the_tensor(tmp_path: Path, spoiled: Path, cli: Cli) -> None:
    task = tmp_path / "tasks" / "say"
    task.mkdir(parents=True)
    (task / "test.jsonl").write_text(json.dumps({"id": "1", "prompt": "a=", "answer": "b"}) + "\n")
    sound = write_model(tmp_path / "sound")
    warning = f"warning: {spoiled}:model.norm.weight holds NaN or infinity"
    for command in (
        ("evaluate", spoiled, "--tasks", task.parent),
        ("generate", spoiled, "--prompt", "a=", "--max-new-tokens", 2),
    ):
        answered = cli(*command)
        assert answered.code == 0
        assert warning in answered.err.replace("\n", "")
        assert "holds NaN" not in cli(command[0], sound, *command[2:]).err
