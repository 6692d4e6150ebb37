"""What PEFT has too is written for it and answers alike there; what it has not is refused with what would be lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genepool.composition import load_composition, make_composer, open_skills, save_composition
from genepool.composition.composers.x_lora import XLoraComposition
from genepool.composition.world import World

Cli = Callable[..., Any]
IDS = torch.tensor([[1, 5, 6, 7, 12], [1, 8, 4, 9, 12]])
QUICK = [word for key, value in {"steps": 2, "batch": 8}.items() for word in ("--set", f"{key}={value}")]


def refused(answer: Any, *parts: str) -> None:
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert answer.code == 2, answer.err
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]


def network(bed: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bed / "base").eval()


def ours(folder: Path | str) -> torch.Tensor:
    from genepool.tasks import open_model

    with torch.inference_mode():
        model: Any = open_model(str(folder)).load()
        found: torch.Tensor = model.model(input_ids=IDS, use_cache=False).logits
    return found


def skills(bed: Path) -> Any:
    return open_skills(str(bed / "base"), [str(bed / "lora" / name) for name in ("one", "two")])


@pytest.fixture
def equal_ranks(text_bed: Path, tmp_path: Path) -> list[Path]:
    """Two adapters of rank 2 of the text bed."""
    from peft import LoraConfig, get_peft_model

    found = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        tuned = get_peft_model(network(text_bed), config)
        tuned.save_pretrained(str(tmp_path / f"equal{seed}"))
        found.append(tmp_path / f"equal{seed}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, 4])
def test_poly_and_mhr(cli: Cli, text_bed: Path, tmp_path: Path, heads: int) -> None:
    from peft import PeftModel

    folder, out = tmp_path / "mhr", tmp_path / "peft"
    made = cli(
        "compose", "mhr", "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--examples", 8, "--out", folder,
        *QUICK, "--set", f"heads={heads}", "--set", "modules=3", "--set", "rank=2",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert cli("export", folder, out, "--type", "peft").code == 0
    tasks = json.loads((out / "tasks.json").read_text())["tasks"]
    theirs = PeftModel.from_pretrained(network(text_bed), out).eval()
    for number, task in enumerate(tasks):
        with torch.inference_mode():
            found = theirs(input_ids=IDS, task_ids=torch.tensor([number, number])).logits
        torch.testing.assert_close(found, ours(f"{folder}#{task}"), atol=2e-5, rtol=1e-4)
    # One task is one LoRA.
    lora = tmp_path / "lora"
    assert cli("export", f"{folder}#two", lora, "--type", "peft").code == 0
    with torch.inference_mode():
        found = PeftModel.from_pretrained(network(text_bed), lora).eval()(input_ids=IDS).logits
    torch.testing.assert_close(found, ours(f"{folder}#two"), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layerwise", [False, True])
def test_x_lora(cli: Cli, text_bed: Path, tmp_path: Path, layerwise: bool) -> None:
    """PEFT loads the adapters by number; the classifier's state is put into it by hand, as the how-to says."""
    from peft import XLoraConfig, get_peft_model

    folder, out = tmp_path / "x", tmp_path / "peft"
    composer: Any = make_composer("x_lora", {"layerwise": layerwise, "temperature": 0.5})
    dice = torch.Generator().manual_seed(0)
    outputs = 8 if layerwise else 2
    tensors = {"weight": torch.randn(outputs, 16, generator=dice), "bias": torch.randn(outputs, generator=dice)}
    save_composition(XLoraComposition(composer, skills(text_bed), {}, tensors), folder)
    assert cli("export", folder, out, "--type", "peft").code == 0
    said = json.loads((out / "adapter_config.json").read_text())
    assert list(said["adapters"]) == ["0", "1"]
    config = XLoraConfig.from_pretrained(str(out))
    config.adapters = {name: str(out / name) for name in config.adapters}
    plain = network(text_bed)
    plain.config.use_cache = False
    theirs = get_peft_model(plain, config).eval()
    theirs.base_model.internal_xlora_classifier.load_state_dict(load_file(out / "xlora_classifier.safetensors"))
    with torch.inference_mode():
        found = theirs(input_ids=IDS).logits
    torch.testing.assert_close(found, ours(folder), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_arrow(cli: Cli, text_bed: Path, equal_ranks: list[Path], tmp_path: Path) -> None:
    from peft import ArrowConfig, create_arrow_model

    folder, out = tmp_path / "arrow", tmp_path / "peft"
    made = cli("compose", "arrow", *equal_ranks, "--base", text_bed / "base", "--out", folder, "--set", "top=2")
    assert made.code == 0, made.err
    answer = cli("export", folder, out, "--type", "peft", "--json")
    assert answer.code == 0
    assert "power iterations" in json.loads(answer.out)["warnings"][0]
    said = json.loads((out / "arrow_config.json").read_text())
    theirs = create_arrow_model(
        network(text_bed), [str(out / name) for name in said["adapters"]], ArrowConfig(**said["arrow_config"])
    ).eval()
    with torch.inference_mode():
        found = theirs(input_ids=IDS).logits
    expected = ours(folder)
    # Within what 15 power iterations reach; the base is far away.
    with torch.inference_mode():
        base = network(text_bed)(input_ids=IDS).logits
    assert float((found - expected).norm()) < 0.02 * float((base - expected).norm())


@pytest.mark.slow
def test_a_fixed_mixture_is_one_lora_of_the_ranks_sum(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    folder, out = tmp_path / "hub", tmp_path / "peft"
    named = [text_bed / "lora" / name for name in ("one", "two")]
    made = cli(
        "compose", "lorahub", *named, "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--examples", 4,
        "--set", "evaluations=3", "--keep", "--out", folder,
    )  # fmt: skip
    assert made.code == 0, made.err
    assert cli("export", folder, out, "--type", "peft").code == 0
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 5
    with torch.inference_mode():
        found = PeftModel.from_pretrained(network(text_bed), out).eval()(input_ids=IDS).logits
    torch.testing.assert_close(found, ours(folder), atol=2e-5, rtol=1e-4)


def test_what_peft_has_not_is_refused(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "arrow", tmp_path / "peft"
    save_composition(make_composer("arrow", {}).fit(World(skills(text_bed), [])), folder)
    refused(cli("export", folder, out, "--type", "peft"), "ranks [2, 3]", "one rank alone")
    composer: Any = make_composer("lora_flow", {})
    tensors = {"gates": torch.zeros(2, 2, 16), "biases": torch.zeros(2, 2)}
    from genepool.composition.routing.adapter_composition import AdapterComposition

    flow = tmp_path / "flow"
    save_composition(AdapterComposition(composer, skills(text_bed), {}, tensors), flow)
    refused(cli("export", flow, out, "--type", "peft"), "to use them by (biases and gates) would be lost")
    refused(cli("export", text_bed / "base", out, "--type", "peft"), "is no composition", "skill convert")
    refused(cli("export", flow, out, "--type", "peft", "--base", text_bed / "base"), "--base")
    assert not out.exists()
    assert load_composition(flow).skills.names == ["one", "two"]
