"""Adapters in and out: factors, ranks and scales come through to the last bit, and PEFT loads what is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.weights import open_weights

Cli = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=23, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def _adapter(base: Path, out: Path, **settings: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{"r": 3, "target_modules": "all-linear", **settings})
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(out)


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({}, True),
        ({"lora_alpha": 7, "use_rslora": True, "r": 4}, True),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 9}}, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, False),
        ({"target_modules": ["q_proj", "up_proj"], "use_dora": True}, False),
    ],
)
def test_to_a_skill_and_back(
    settings: dict[str, Any], exact: bool, base_folder: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    _adapter(base_folder, tmp_path / "adapter", **settings)
    skill, back = tmp_path / "s.safetensors", tmp_path / "back"
    there = ("skill", "convert", tmp_path / "adapter", "--base", base_folder, "--to", "low-rank", "--rank", 16)
    answer = cli(*there, "--dtype", "float32", "--out", skill) if not exact else cli(*there[:-2], "--out", skill)
    assert answer.code == 0, answer.err
    answer = cli("skill", "convert", skill, "--base", base_folder, "--to", "peft", "--rank", 16, "--out", back)
    assert answer.code == 0, answer.err
    before, after = (open_weights(f"{base_folder}+{folder}") for folder in (tmp_path / "adapter", back))
    for name in before.names():
        torch.testing.assert_close(after.read(name), before.read(name), atol=2e-5, rtol=1e-5)
    if exact:
        stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        written = load_file(back / "adapter_model.safetensors")
        factors = {name: value for name, value in stored.items() if "lora_" in name}
        assert {name: value for name, value in written.items() if "lora_" in name}.keys() == factors.keys()
        for name, value in factors.items():
            assert torch.equal(written[name], value)


def test_peft_loads_what_is_written(base_folder: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _adapter(base_folder, tmp_path / "a", rank_pattern={"q_proj": 2}, lora_alpha=5, modules_to_save=["norm"])
    assert (
        cli(
            "skill",
            "convert",
            tmp_path / "a",
            "--base",
            base_folder,
            "--to",
            "low-rank",
            "--out",
            tmp_path / "s.safetensors",
        ).code
        == 0
    )
    answer = cli(
        "skill", "convert", tmp_path / "s.safetensors", "--base", base_folder, "--to", "peft", "--out", tmp_path / "b"
    )
    assert answer.code == 0, answer.err
    merged = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), tmp_path / folder)
        .merge_and_unload()
        .state_dict()
        for folder in ("a", "b")
    ]
    for name, value in merged[0].items():
        torch.testing.assert_close(merged[1][name], value, atol=1e-6, rtol=1e-6)


def test_an_adapter_for_another_architecture(base_folder: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=23, n_embd=16, n_layer=1, n_head=2, n_positions=32)).save_pretrained(
        tmp_path / "gpt"
    )
    _adapter(base_folder, tmp_path / "a")
    answer = cli(
        "skill",
        "convert",
        tmp_path / "a",
        "--base",
        tmp_path / "gpt",
        "--to",
        "low-rank",
        "--out",
        tmp_path / "s.safetensors",
    )
    assert answer.code == 2
    assert "was made for another model" in answer.err
    assert not (tmp_path / "s.safetensors").exists()


def test_an_adapter_that_holds_nan_is_not_kept_as_another_form(base_folder: Path, tmp_path: Path, cli: Cli) -> None:
    """Nor one whose factors are finite and whose product is not; nothing is written."""
    _adapter(base_folder, tmp_path / "lora", r=2, target_modules=["q_proj"])
    file = tmp_path / "lora" / "adapter_model.safetensors"
    sound = load_file(file)
    for spoil in (lambda one: one * 1e30, lambda one: one * math.nan):
        save_file({key: spoil(one) for key, one in sound.items()}, file, {"format": "pt"})
        for form in ("peft", "low-rank", "dense"):
            out = tmp_path / "out.safetensors"
            told = cli("skill", "convert", tmp_path / "lora", "--base", base_folder, "--to", form, "--out", out, "-q")
            assert told.code == 2
            assert "q_proj.weight: the change is NaN or infinite" in told.err
            assert not out.exists()


def test_an_adapter_without_tensors_is_no_skill(base_folder: Path, tmp_path: Path, cli: Cli) -> None:
    _adapter(base_folder, tmp_path / "lora", r=2, target_modules=["q_proj"])
    save_file({}, tmp_path / "lora" / "adapter_model.safetensors", {"format": "pt"})
    recipe = tmp_path / "merge.yaml"
    recipe.write_text(f"genepool: 1\nmethod: linear\nmodels: [{base_folder}+{tmp_path / 'lora'}, {base_folder}]\n")
    out = tmp_path / "out"
    for command in (
        ("skill", "apply", tmp_path / "lora", "--base", base_folder, "--out", out),
        ("merge", recipe, out),
    ):
        told = cli(*command, "-q")
        assert told.code == 2
        assert "adapter_model.safetensors: holds no tensors, so it changes nothing" in told.err
        assert not out.exists()
