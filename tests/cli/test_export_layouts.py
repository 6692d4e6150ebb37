"""`genepool export` of models and adapters whose files have no prefix: llama.cpp is given the same bytes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "weights"))
from gguf_world import byte_level, tiny_model

from genepool.weights import open_weights


def _without_prefix(base: Path, out: Path) -> Path:
    shutil.copytree(base, out)
    tensors = load_file(base / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.mark.slow
def test_a_model_without_prefix_is_the_same_file(tmp_path: Path, cli: Callable[..., Any]) -> None:
    base = tiny_model(tmp_path / "base", "llama", byte_level("gpt-2"))
    bare = _without_prefix(base, tmp_path / "bare")
    for folder in (base, bare):
        assert cli("export", folder, tmp_path / f"{folder.name}.gguf").code == 0
    expected, found = open_weights(tmp_path / "base.gguf"), open_weights(tmp_path / "bare.gguf")
    assert set(found.names()) == set(expected.names())
    assert all(torch.equal(found.read(name), expected.read(name)) for name in found.names())


@pytest.mark.slow
def test_an_adapter_goes_out_and_comes_back_on_a_base_without_prefix(tmp_path: Path, cli: Callable[..., Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny_model(tmp_path / "base", "llama", byte_level("gpt-2"))
    bare = _without_prefix(base, tmp_path / "bare")
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    for folder in (base, bare):
        answer = cli(
            "export", tmp_path / "adapter", "--base", folder, tmp_path / f"{folder.name}.gguf", "--type", "f32"
        )
        assert answer.code == 0, answer.err
    expected = open_weights(f"{base}+{tmp_path / 'adapter'}")
    found = open_weights(f"{bare}+{tmp_path / 'bare.gguf'}")
    for name in found.names():
        stored = name if name in expected else f"model.{name}"
        torch.testing.assert_close(found.read(name), expected.read(stored), atol=1e-5, rtol=0)
