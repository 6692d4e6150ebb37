"""Training on a base whose file has no prefix: the same bits as on the file that has one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import QUICK

from genepool.weights import open_weights


@pytest.mark.slow
@pytest.mark.parametrize("form", [["--lora", 2], ["--full", "--learning-rate", 0.003]], ids=["lora", "full"])
def test_what_is_learned_is_the_same(
    form: list[Any], small_world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    shutil.copytree(small_world / "base", tmp_path / "bare")
    tensors = load_file(tmp_path / "bare" / "model.safetensors")
    prefix = "transformer." if any(name.startswith("transformer.") for name in tensors) else "model."
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_file(bare, tmp_path / "bare" / "model.safetensors", {"format": "pt"})
    found = {}
    for name, base in (("whole", small_world / "base"), ("short", tmp_path / "bare")):
        line = ["train", small_world / "tasks" / "first", "--base", base, "--out", tmp_path / name, *form, *QUICK]
        answer = cli(*line, "--steps", 4)
        assert answer.code == 0, answer.err
        result = "adapter" if form[0] == "--lora" else "skill.safetensors"
        found[name] = open_weights(f"{base}+{tmp_path / name / result}")
    for name in found["whole"].names():
        stored = name if name in found["short"] else name.removeprefix(prefix)
        assert torch.equal(found["short"].read(stored), found["whole"].read(name)), name
