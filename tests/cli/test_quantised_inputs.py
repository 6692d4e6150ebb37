"""Quantised models through the commands: merged, planned, inspected, compared, extracted, asked, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tasks.tiny_models import write_model
from tests.weights.quantised_models import example, pack_fp8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/; fp8/, the base in blocks of FP8; floats/, what that stands for; tuned/, a fine-tune of it; adapter/."""
    root = tmp_path_factory.mktemp("quantised")
    write_model(root / "base")
    for name in ("fp8", "floats", "tuned"):
        shutil.copytree(root / "base", root / name)
    tensors = load_file(root / "base" / "model.safetensors")
    stored, floats = pack_fp8(tensors)
    save_file(stored, root / "fp8" / "model.safetensors", metadata={"format": "pt"})
    save_file(floats, root / "floats" / "model.safetensors", metadata={"format": "pt"})
    random = torch.Generator().manual_seed(1)
    moved = {name: value + 0.01 * torch.randn(value.shape, generator=random) for name, value in floats.items()}
    save_file(moved, root / "tuned" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((root / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (root / "fp8" / "config.json").write_text(json.dumps(config))
    (root / "fp8" / "quantize_config.json").write_text("{}")
    (root / "adapter").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (root / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    factors = {}
    for layer in (0, 1):
        place = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        factors[f"{place}.lora_A.weight"] = torch.randn(2, 16, generator=random)
        factors[f"{place}.lora_B.weight"] = torch.randn(16, 2, generator=random)
    save_file(factors, root / "adapter" / "adapter_model.safetensors")
    return root


def merged(cli: Callable[..., Any], folder: Path, base: Path, models: list[str]) -> tuple[Any, Path]:
    recipe = {"genepool": 1, "method": "task_arithmetic", "base": str(base), "models": models}
    path = folder / f"{base.name}.json.yaml"
    path.write_text(json.dumps(recipe))
    answer = cli("merge", path, folder / f"of-{base.name}")
    assert answer.code == 0, answer.err
    return answer, folder / f"of-{base.name}"


def test_a_merge_is_that_of_what_the_base_stands_for(cli: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    said, ours = merged(cli, tmp_path, world / "fp8", [str(world / "tuned"), f"{world / 'fp8'}+{world / 'adapter'}"])
    _, theirs = merged(
        cli, tmp_path, world / "floats", [str(world / "tuned"), f"{world / 'floats'}+{world / 'adapter'}"]
    )
    found, expected = (load_file(one / "model.safetensors") for one in (ours, theirs))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert f"note: {world / 'fp8'} is quantised (FP8); 14 tensors are dequantised to float32." in said.err
    assert "quantization_config" not in json.loads((ours / "config.json").read_text())
    assert not (ours / "quantize_config.json").exists()
    assert f"`{world / 'fp8'}` is quantised (FP8); 14 tensors are dequantised" in (ours / "README.md").read_text()


def test_plan_inspect_and_compare_say_what_is_dequantised(cli: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        json.dumps({"genepool": 1, "method": "linear", "models": [str(world / "fp8"), str(world / "tuned")]})
    )
    said = "quantised (FP8); 14 tensors are dequantised to float32"
    assert json.loads(cli("plan", path, "--json").out)["dequantised"] == {str(world / "fp8"): said}
    assert said in " ".join(cli("plan", path).out.split())
    found = json.loads(cli("inspect", world / "fp8", world / "tuned", "--json").out)
    assert not found["problems"]
    facts = found["models"][0]
    in_file = load_file(world / "fp8" / "model.safetensors")
    assert facts["stored"]["F8_E4M3"] == 14
    assert facts["bytes"] == sum(value.nbytes for value in in_file.values())
    assert (facts["scheme"], set(facts["dtypes"])) == ("FP8", {"F32"})
    assert f"{world / 'fp8'} is {said}" in found["notes"]


def test_a_skill_is_extracted_from_it_and_put_on_it(cli: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    skill = tmp_path / "skill.safetensors"
    assert cli("skill", "extract", world / "tuned", "--base", world / "fp8", "--out", skill).code == 0
    assert cli("skill", "apply", skill, "--base", world / "fp8", "--out", tmp_path / "applied").code == 0
    found = load_file(tmp_path / "applied" / "model.safetensors")
    for name, value in load_file(world / "tuned" / "model.safetensors").items():
        assert torch.allclose(found[name], value, atol=1e-6)


def test_it_answers_as_what_it_stands_for(cli: Callable[..., Any], world: Path) -> None:
    for more in ("", f"+{world / 'adapter'}"):
        ours, theirs = (
            json.loads(cli("generate", f"{world / name}{more}", "--prompt", "ab=", "--json").out)
            for name in ("fp8", "floats")
        )
        assert ours["results"] == theirs["results"]


def test_a_tensor_without_its_scale_is_one_line(cli: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(world / "fp8", tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight_scale_inv"]
    save_file(tensors, broken / "model.safetensors")
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"genepool": 1, "method": "linear", "models": [str(broken), str(world / "tuned")]}))
    answer = cli("merge", path, tmp_path / "out")
    assert answer.code == 2
    where = f"{broken / 'model.safetensors'}:model.layers.1.mlp.up_proj.weight"
    assert answer.err.startswith(f"error: {where}: is quantised (stored as F8_E4M3) and lacks its scale. Fetch or")
    assert not (tmp_path / "out").exists()


def test_a_quantiser_that_is_not_read_is_named_with_the_reason(
    cli: Callable[..., Any], world: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(world / "base", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "aqlm"}}))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"genepool": 1, "method": "linear", "models": [str(other), str(world / "tuned")]}))
    answer = cli("merge", path, tmp_path / "out")
    assert answer.code == 2
    assert "the model is quantised (AQLM), and its codes name entries of learned codebooks" in answer.err
    assert "Merge the unquantised checkpoint" in answer.err
    seen = cli("inspect", other)
    assert seen.code == 1
    assert "is quantised (AQLM), and its codes name" in seen.err
    assert seen.err.endswith("; name the unquantised checkpoint.\n")


def test_the_form_of_a_scheme_is_said(cli: Callable[..., Any], tmp_path: Path) -> None:
    seen = cli("inspect", example("bitsandbytes_nf4").write(tmp_path / "nf4"))
    assert seen.code == 0, seen.err
    rows = {name: rest.split() for name, _, rest in (line.strip().partition("  ") for line in seen.out.splitlines())}
    assert rows["quantised"] == ["bitsandbytes,", "4", "bits:", "NF4"]
    assert rows["read as"] == ["F32"]
    assert "U8" in rows["stored as"]
    assert "1 tensor is dequantised to float32" in seen.out


def test_whole_tensors_of_it_are_not_trained(cli: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    task = tmp_path / "task"
    task.mkdir()
    for split in ("train", "valid", "test"):
        lines = [json.dumps({"prompt": f"{letter}=", "answer": letter, "id": f"{split}{letter}"}) for letter in "abcd"]
        (task / f"{split}.jsonl").write_text("\n".join(lines))
    answer = cli("train", task, "--base", world / "fp8", "--full", "--out", tmp_path / "run")
    assert answer.code == 2
    assert "quantised by fp8, so its tensors cannot be trained. Train factors: --lora" in answer.err
