"""Whatever the layouts of the files: merges, adapters and skills give what transformers and PEFT give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layout_models as models
import pytest
import torch

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
OTHERS: dict[str, Callable[[Any], dict[str, torch.Tensor]]] = {
    "in memory": models.in_memory,
    "without prefix": models.without_prefix,
    "gamma and beta": models.as_old_tensorflow,
    "compiled": lambda model: {f"_orig_mod.{name}": tensor for name, tensor in models.in_memory(model).items()},
}
# Which layout the reference has and which the others, of models where the two differ.
PAIRS = [
    ("gpt2", "without prefix"),
    ("bert", "without prefix"),
    ("bert", "gamma and beta"),
    ("llama", "compiled"),
    ("mixtral", "in memory"),
    ("qwen3_moe", "in memory"),
    ("llava", "in memory"),
    ("qwen2_vl", "in memory"),
    ("vit", "in memory"),
]
Cli = Callable[..., Any]


def _moved(name: str, seed: int) -> Any:
    """A fine-tune of `models.build(name)`."""
    model = models.build(name)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def _save(model: Any, folder: Path, layout: str) -> Path:
    if layout == "hub":
        return models.save(model, folder)
    return models.save_as(model, folder, OTHERS[layout](model))


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"genepool: 1\n{text}")
    return path


def _loaded(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    return dict(loaded.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True], ids=["onto the hub's", "onto the other"])
@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_a_merge_of_two_layouts_is_the_mean_in_the_base_s(
    name: str, other: str, turned: bool, tmp_path: Path, cli: Cli
) -> None:
    base, one, two = models.build(name), _moved(name, 1), _moved(name, 2)
    layouts = (other, "hub") if turned else ("hub", other)
    _save(base, tmp_path / "base", layouts[0])
    _save(one, tmp_path / "one", layouts[1])
    _save(two, tmp_path / "two", layouts[0])
    recipe = _recipe(
        tmp_path,
        "method: task_arithmetic\nbase: base\nmodels: [one, two]\nparameters: {weight: 0.5, lambda: 1.0}\n",
    )
    shown = json.loads(cli("plan", recipe, "--json").out)
    renamed = shown["renamed"]
    assert set(renamed) == ({"base", "two"} if other == "compiled" and turned else {"one"})
    assert cli("merge", recipe, tmp_path / "out").code == 0
    merged, expected = _loaded(base, tmp_path / "out"), {}
    first, second = one.state_dict(), two.state_dict()
    for tensor in merged:
        expected[tensor] = (first[tensor] + second[tensor]) / 2 if merged[tensor].is_floating_point() else first[tensor]
        torch.testing.assert_close(merged[tensor], expected[tensor], atol=1e-5, rtol=0)
    kept = set(models.stored(tmp_path / "out"))
    assert kept == {text.removeprefix("_orig_mod.") for text in models.stored(tmp_path / "base")}
    example = next(iter(renamed.values()))["example"]
    assert all(text in (tmp_path / "out" / "README.md").read_text() for text in example)


@pytest.mark.slow
def test_without_a_base_the_first_model_s_layout_is_written(tmp_path: Path, cli: Cli) -> None:
    one, two = _moved("mixtral", 1), _moved("mixtral", 2)
    _save(one, tmp_path / "one", "in memory")
    _save(two, tmp_path / "two", "hub")
    assert cli("merge", _recipe(tmp_path, "method: linear\nmodels: [one, two]\n"), tmp_path / "out").code == 0
    assert set(models.stored(tmp_path / "out")) == set(models.in_memory(one))
    merged, first, second = _loaded(one, tmp_path / "out"), one.state_dict(), two.state_dict()
    for name in merged:
        torch.testing.assert_close(merged[name], (first[name] + second[name]) / 2, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------- adapters


def _adapter(model: Any, folder: Path, **settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    live = get_peft_model(model, LoraConfig(**{"r": 4, **settings}))
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    live.save_pretrained(folder)
    return live.eval()


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


ADAPTED = [
    ("gpt2", ["c_attn"]),
    ("bert", ["query", "value"]),
    ("mixtral", ["q_proj", "gate"]),
    ("qwen3_moe", ["q_proj", "gate"]),
    ("llava", ["q_proj", "v_proj"]),
    ("qwen2_vl", ["q_proj", "v_proj"]),
]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["hub", "in memory", "without prefix", "compiled"])
@pytest.mark.parametrize(("name", "targets"), ADAPTED)
def test_an_adapter_changes_a_base_of_any_layout_as_peft_does(
    name: str, targets: list[str], layout: str, tmp_path: Path, cli: Cli
) -> None:
    base = models.build(name)
    _save(base, tmp_path / "base", layout)
    live = _adapter(base, tmp_path / "adapter", target_modules=targets, fan_in_fan_out=name == "gpt2")
    recipe = _recipe(tmp_path, "method: linear\nmodels: [base+adapter]\n")
    assert cli("merge", recipe, tmp_path / "out").code == 0
    merged = type(base).from_pretrained(tmp_path / "out")
    torch.testing.assert_close(_logits(merged), _logits(live), atol=1e-4, rtol=0)


# Routers are parameters to PEFT, which genepool reads and does not write.
WRITTEN = [(name, [target for target in targets if target != "gate"]) for name, targets in ADAPTED]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["hub", "in memory", "without prefix"])
@pytest.mark.parametrize(("name", "targets"), WRITTEN)
def test_a_merge_as_an_adapter_is_found_by_peft_on_the_class(
    name: str, targets: list[str], layout: str, tmp_path: Path, cli: Cli
) -> None:
    from peft import PeftModel

    base = models.build(name)
    _save(base, tmp_path / "base", layout)
    settings = {"target_modules": targets, "fan_in_fan_out": name == "gpt2"}
    _adapter(base, tmp_path / "one", **settings)
    recipe = _recipe(tmp_path, "method: task_arithmetic\nbase: base\nmodels: [base+one]\nparameters: {lambda: 0.5}\n")
    assert cli("merge", recipe, tmp_path / "out", "--as-lora", "8").code == 0
    assert cli("merge", recipe, tmp_path / "whole").code == 0
    own = type(base).from_pretrained(tmp_path / "base")
    plain = _logits(own)
    expected = _logits(type(base).from_pretrained(tmp_path / "whole"))
    found = _logits(PeftModel.from_pretrained(own, tmp_path / "out"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (expected - plain).abs().max() > 1e-3


# ---------------------------------------------------------------------- skills


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), [pair for pair in PAIRS if pair[1] != "gamma and beta"])
@pytest.mark.parametrize("turned", [False, True], ids=["onto the other", "onto the hub's"])
def test_a_skill_of_one_layout_is_applied_to_a_base_of_the_other(
    name: str, other: str, turned: bool, tmp_path: Path, cli: Cli
) -> None:
    base, tuned = models.build(name), _moved(name, 1)
    first, second = (other, "hub") if turned else ("hub", other)
    _save(base, tmp_path / "base", first)
    _save(tuned, tmp_path / "tuned", second)
    _save(base, tmp_path / "same", second)
    skill = tmp_path / "skill.safetensors"
    assert cli("skill", "extract", tmp_path / "tuned", "--base", tmp_path / "base", "--out", skill).code == 0
    assert cli("skill", "apply", skill, "--base", tmp_path / "same", "--out", tmp_path / "out").code == 0
    found, expected = _loaded(base, tmp_path / "out"), tuned.state_dict()
    for tensor in found:
        torch.testing.assert_close(found[tensor], expected[tensor], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_skill_of_some_experts_changes_those_of_the_stack_and_no_others(tmp_path: Path, cli: Cli) -> None:
    base = models.build("mixtral")
    hub = models.save(base, tmp_path / "base")
    _save(base, tmp_path / "stacked", "in memory")
    tensors = models.stored(hub)
    moved = [name for name in tensors if "layers.1" in name and ("experts.2.w1" in name or "experts.0.w2" in name)]
    tuned = {name: tensor + 0.25 if name in moved else tensor for name, tensor in tensors.items()}
    models.save_as(base, tmp_path / "tuned", tuned)
    skill = tmp_path / "skill.safetensors"
    assert cli("skill", "extract", tmp_path / "tuned", "--base", hub, "--out", skill).code == 0
    assert cli("skill", "apply", skill, "--base", tmp_path / "stacked", "--out", tmp_path / "out").code == 0
    found, expected = _loaded(base, tmp_path / "out"), _loaded(base, tmp_path / "tuned")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_skill_for_another_base_of_another_layout_is_refused(tmp_path: Path, cli: Cli) -> None:
    _save(models.build("mixtral"), tmp_path / "base", "hub")
    _save(_moved("mixtral", 1), tmp_path / "tuned", "hub")
    _save(models.build("mixtral", 7), tmp_path / "stranger", "in memory")
    skill = tmp_path / "skill.safetensors"
    assert cli("skill", "extract", tmp_path / "tuned", "--base", tmp_path / "base", "--out", skill).code == 0
    answer = cli("skill", "apply", skill, "--base", tmp_path / "stranger", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "was extracted from another base" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "targets"), WRITTEN)
def test_a_skill_converted_to_an_adapter_is_found_by_peft(
    name: str, targets: list[str], tmp_path: Path, cli: Cli
) -> None:
    from peft import PeftModel

    base = models.build(name)
    _save(base, tmp_path / "base", "hub")
    live = _adapter(base, tmp_path / "one", target_modules=targets, fan_in_fan_out=name == "gpt2")
    skill = tmp_path / "skill.safetensors"
    extract = ("skill", "extract", tmp_path / "one", "--base", tmp_path / "base", "--to", "low-rank", "--rank", "4")
    assert cli(*extract, "--out", skill).code == 0
    convert = cli("skill", "convert", skill, "--to", "peft", "--base", tmp_path / "base", "--out", tmp_path / "out")
    assert convert.code == 0, convert.err
    own = type(base).from_pretrained(tmp_path / "base")
    found = _logits(PeftModel.from_pretrained(own, tmp_path / "out"))
    torch.testing.assert_close(found, _logits(live), atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- filters


@pytest.mark.slow
@pytest.mark.parametrize("base", ["hub", "in memory"])
@pytest.mark.parametrize("text", ["block_sparse_moe.gate", "mlp.gate."])
def test_a_filter_is_understood_in_either_layout(base: str, text: str, tmp_path: Path, cli: Cli) -> None:
    one, two = _moved("mixtral", 1), _moved("mixtral", 2)
    _save(one, tmp_path / "one", base)
    _save(two, tmp_path / "two", "hub" if base == "in memory" else "in memory")
    condition = f"[{{filter: {text}, value: 0}}, {{value: 1}}]"
    recipe = _recipe(
        tmp_path,
        f"method: linear\nmodels: [{{model: one, parameters: {{weight: {condition}}}}}, two]\n"
        "parameters: {weight: 1}\n",
    )
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 0
    assert "means no tensor" not in answer.err
    merged, first, second = _loaded(one, tmp_path / "out"), one.state_dict(), two.state_dict()
    router, other = "model.layers.0.mlp.gate.weight", "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(merged[router], second[router])
    torch.testing.assert_close(merged[other], (first[other] + second[other]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["experts.3.w1", "self_atn"])
def test_a_filter_that_means_no_whole_tensor_is_told(text: str, tmp_path: Path, cli: Cli) -> None:
    _save(_moved("mixtral", 1), tmp_path / "one", "in memory")
    _save(_moved("mixtral", 2), tmp_path / "two", "hub")
    recipe = _recipe(
        tmp_path,
        f"method: linear\nmodels: [one, two]\nparameters: {{weight: [{{filter: {text}, value: 0}}, {{value: 1}}]}}\n",
    )
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 0
    assert f"filter {text!r} means no tensor, and so has no effect" in answer.err
