"""Adapters and skills of fine-tunes that differ from their base in more than values, and adapters of factors alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.weights import open_weights

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORM, LAYER = "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"
Save = Callable[..., Path]


def _recipe(folder: Path, **recipe: Any) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"genepool": 1, **recipe}))
    return folder / "recipe.yaml"


def _model(rows: int, change: float = 0.0) -> dict[str, torch.Tensor]:
    """A layer, its norm, and a vocabulary; `change` goes to all of them."""
    draw = torch.Generator().manual_seed(rows)
    own = torch.Generator().manual_seed(0)
    tensors = {
        EMBEDDING: torch.cat((torch.randn(4, 4, generator=own), torch.randn(4, 4, generator=draw)))[:rows],
        HEAD: torch.cat((torch.randn(4, 4, generator=own), torch.randn(4, 4, generator=draw)))[:rows],
        LAYER: torch.randn(4, 4, generator=own),
        f"{LAYER.removesuffix('weight')}bias": torch.randn(4, generator=own),
        NORM: torch.randn(4, generator=own),
    }
    return {name: tensor + change for name, tensor in tensors.items()}


@pytest.fixture
def tuned(save_model: Save, tmp_path: Path) -> Path:
    save_model("base", _model(4), vocab_size=4)
    save_model("tuned", _model(4, 0.5), vocab_size=4)
    return _recipe(tmp_path, method="task_arithmetic", base="base", models=["tuned"], parameters={"lambda": 1.0})


def test_factors_only_leaves_out_what_is_no_factor_and_says_what_is_lost(cli: Any, tuned: Path, tmp_path: Path) -> None:
    answer = cli("merge", tuned, tmp_path / "whole", "--as-lora", 4, "--json")
    assert answer.code == 0, answer.err
    settings = json.loads((tmp_path / "whole" / "adapter_config.json").read_text())
    assert (settings["modules_to_save"], settings["bias"]) == (["model.layers.0.input_layernorm"], "all")
    answer = cli("merge", tuned, tmp_path / "factors", "--as-lora", 4, "--factors-only", "--json")
    assert answer.code == 0, answer.err
    settings = json.loads((tmp_path / "factors" / "adapter_config.json").read_text())
    assert (settings["modules_to_save"], settings["bias"]) == (None, "none")
    assert all("lora_" in name for name in load_file(tmp_path / "factors" / "adapter_model.safetensors"))
    said = json.loads(answer.out)
    # 4 entries of the norm and 4 of the bias, of 56 that change alike.
    assert set(said["left_out"]) == {f"{LAYER.removesuffix('weight')}bias", NORM}
    assert said["left_out_share"] == pytest.approx(8 / 56)
    assert "stay as in the base (it is no matrix, and --factors-only leaves out what goes along whole)" in answer.err


def test_factors_only_of_a_skill(cli: Any, tuned: Path, tmp_path: Path) -> None:
    skill = tmp_path / "skill.safetensors"
    assert cli("skill", "extract", tmp_path / "tuned", "--base", tmp_path / "base", "--out", skill).code == 0
    convert = ("skill", "convert", skill, "--base", tmp_path / "base", "--to", "peft", "--out", tmp_path / "peft")
    answer = cli(*convert, "--rank", 4, "--factors-only")
    assert answer.code == 0, answer.err
    assert "of the change lost; no adapter holds" in answer.out
    assert all("lora_" in name for name in load_file(tmp_path / "peft" / "adapter_model.safetensors"))


def test_tensors_that_go_along_whole_lose_nothing(cli: Any, tuned: Path, tmp_path: Path) -> None:
    base, peft = tmp_path / "base", tmp_path / "peft"
    # So that rank 1 cannot hold it.
    tensors = {name: tensor + torch.randn(tensor.shape) for name, tensor in _model(4).items()}
    save_file(tensors, tmp_path / "tuned" / "model.safetensors")
    convert = ("skill", "convert", tmp_path / "tuned", "--base", base, "--to", "peft", "--out", peft, "--rank", 1)
    answer = cli(*convert, "--whole", "embedding", "--whole", HEAD)
    assert answer.code == 0, answer.err
    settings = json.loads((peft / "adapter_config.json").read_text())
    whole = {EMBEDDING, HEAD, NORM}
    assert set(settings["modules_to_save"]) == {name.removesuffix(".weight") for name in whole}
    held = open_weights(f"{base}+{peft}")
    assert all(held.read(name).equal(tensors[name]) for name in whole)
    assert not held.read(LAYER).allclose(tensors[LAYER])
    for more, complaint in (
        (["--whole", "heads"], "--whole: 'heads' matches no tensor. Did you mean 'head'?"),
        (["--whole", "head", "--factors-only"], "--whole: contradicts --factors-only"),
    ):
        answer = cli(*convert, "--overwrite", *more)
        assert answer.code == 2
        assert complaint in answer.err


def test_factors_only_goes_with_adapters_alone(cli: Any, tuned: Path, tmp_path: Path) -> None:
    answer = cli("merge", tuned, tmp_path / "out", "--factors-only")
    assert answer.code == 2
    assert "--as-lora" in answer.err
    skill = ("skill", "convert", tmp_path / "tuned", "--base", tmp_path / "base", "--to", "dense", "--factors-only")
    answer = cli(*skill, "--out", tmp_path / "out.safetensors")
    assert answer.code == 2
    assert "--to peft" in answer.err


@pytest.mark.parametrize(
    ("rows", "said"),
    [(6, "2 tokens that BASE lacks are left out"), (3, "1 token that only BASE has stays as it is")],
)
def test_a_skill_of_a_fine_tune_with_other_tokens_holds_what_both_have(
    cli: Any, save_model: Save, tmp_path: Path, rows: int, said: str
) -> None:
    base = save_model("base", _model(4), vocab_size=4)
    grown = save_model("grown", _model(rows, 0.5), vocab_size=rows)
    skill = tmp_path / "skill.safetensors"
    answer = cli("skill", "extract", grown, "--base", base, "--out", skill)
    assert answer.code == 0, answer.err
    assert f"note: of what {grown} changes, {said.replace('BASE', str(base))}." in answer.err
    assert cli("skill", "apply", skill, "--base", base, "--out", tmp_path / "out").code == 0
    applied = open_weights(tmp_path / "out")
    common = min(rows, 4)
    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(applied.read(name)[:common], _model(4, 0.5)[name][:common])
        torch.testing.assert_close(applied.read(name)[common:], _model(4)[name][common:])
    torch.testing.assert_close(applied.read(LAYER), _model(4, 0.5)[LAYER])


def test_an_adapter_of_a_merge_with_more_tokens_is_one_of_the_base(cli: Any, save_model: Save, tmp_path: Path) -> None:
    save_model("base", _model(4), vocab_size=4)
    save_model("grown", _model(6, 0.5), vocab_size=6)
    recipe = _recipe(
        tmp_path,
        method="task_arithmetic",
        base="base",
        models=["grown"],
        vocabulary="padded",
        parameters={"lambda": 1.0},
    )
    answer = cli("merge", recipe, tmp_path / "adapter", "--as-lora", 4, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["tokens_left_out"] == 2
    assert "note: 2 tokens that the base lacks are left out." in answer.err
    again = open_weights(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}")
    for name, tensor in _model(4, 0.5).items():
        torch.testing.assert_close(again.read(name), tensor, atol=1e-5, rtol=1e-5)


def test_what_is_no_fine_tune_of_the_base_is_refused_for_that(cli: Any, save_model: Save, tmp_path: Path) -> None:
    base = save_model("base", _model(4), vocab_size=4)
    wider = save_model("wider", {**_model(4), LAYER: torch.zeros(8, 4)}, vocab_size=4)
    answer = cli("skill", "extract", wider, "--base", base, "--out", tmp_path / "skill.safetensors")
    assert answer.code == 2
    assert f"{wider}: not a fine-tune of {base}: {LAYER} has shape [8, 4], expected [4, 4] as in {base}" in answer.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_skill_of_an_untied_fine_tune_of_a_tied_base_says_that_its_head_is_left_out(cli: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=12, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(tmp_path / "tied")
    (tmp_path / "untied").mkdir()
    save_file(
        {name: tensor + 0.1 for name, tensor in model.state_dict().items()}, tmp_path / "untied/model.safetensors"
    )
    untied = {**json.loads((tmp_path / "tied" / "config.json").read_text()), "tie_word_embeddings": False}
    (tmp_path / "untied" / "config.json").write_text(json.dumps(untied))
    skill = tmp_path / "skill.safetensors"
    answer = cli("skill", "extract", tmp_path / "untied", "--base", tmp_path / "tied", "--out", skill)
    assert answer.code == 0, answer.err
    assert f"lm_head.weight is left out, which {tmp_path / 'tied'} ties to its embedding" in answer.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_fused_experts_are_held_as_peft_holds_them(cli: Any, tmp_path: Path, name: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from benchmarks.adapters.cases import build_base

    base = build_base(name, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("gate_up_proj", "down_proj", "q_proj.weight")):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(tmp_path / "tuned")
    parameters = {"lambda": 1.0}
    recipe = _recipe(tmp_path, method="task_arithmetic", base=str(base), models=["tuned"], parameters=parameters)
    answer = cli("merge", recipe, tmp_path / "adapter", "--as-lora", 64, "--factors-only")
    assert answer.code == 0, answer.err
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_parameters"] == ["experts.down_proj", "experts.gate_up_proj"]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(live(ids).logits, model(ids).logits, atol=2e-5, rtol=1e-5)
    again = _recipe(tmp_path, method="linear", models=[f"{base}+{tmp_path / 'adapter'}"])
    assert cli("merge", again, tmp_path / "out").code == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model(ids).logits, atol=2e-5, rtol=1e-5)
