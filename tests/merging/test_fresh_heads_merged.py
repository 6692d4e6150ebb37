"""Models with a head of classes on a base without one: merged as a change from zeros, or refused by name."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Tensors = dict[str, torch.Tensor]
IDS = torch.tensor([[5, 6, 7, 8]])
CLASSES = {"a": 3, "b": 3, "two": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, a BERT without a head; {a, b, two}/, PEFT's adapters with one; bare/, without; {a, b}-full, fine-tunes."""
    import transformers
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("heads")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder / "base")
    warnings.simplefilter("ignore")

    def adapted(model: Any, name: str, **settings: Any) -> None:
        live = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["query"], **settings))
        for key, value in live.named_parameters():
            if "lora_B" in key or "modules_to_save" in key:
                value.data += 0.1 * torch.randn_like(value)
        live.save_pretrained(folder / name)

    for number, (name, classes) in enumerate(CLASSES.items()):
        torch.manual_seed(number + 1)
        model = transformers.BertForSequenceClassification.from_pretrained(folder / "base", num_labels=classes)
        adapted(model, name, task_type="SEQ_CLS")
        for value in model.parameters():
            value.data += 0.02 * torch.randn_like(value)
        model.save_pretrained(folder / f"{name}-full")
    adapted(transformers.BertModel.from_pretrained(folder / "base"), "bare")
    return folder


@pytest.fixture
def merge(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> Callable[..., Any]:
    """Merges models of the world on its base; `merge("base+a", "base+b", rest="base+a")` -> (answer, folder)."""

    def call(*models: str, options: tuple[str, ...] = (), **keys: Any) -> tuple[Any, Path]:
        said = {"genepool": 1, "method": "task_arithmetic", "base": "base", "models": list(models), **keys}
        (world / "recipe.yaml").write_text(json.dumps(said))
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return cli("merge", world / "recipe.yaml", out, *options), out

    return call


def _head(folder: Path) -> Tensors:
    stored = load_file(next(folder.glob("*.safetensors")))
    return {name.removeprefix("base_model.model."): value for name, value in stored.items() if "classifier" in name}


def _logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForSequenceClassification

    with torch.no_grad():
        logits: torch.Tensor = AutoModelForSequenceClassification.from_pretrained(folder).eval()(IDS).logits
    return logits


def _in_peft(world: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(world / "base", num_labels=3)
    with torch.no_grad():
        logits: torch.Tensor = PeftModel.from_pretrained(model, adapter).eval()(IDS).logits
    return logits


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_heads_are_added_up_like_every_change(
    factor: float, world: Path, tmp_path: Path, merge: Callable[..., Any], cli: Callable[..., Any]
) -> None:
    answer, out = merge("base+a", "base+b", parameters={"lambda": factor})
    assert answer.code == 0, answer.err
    assert "note: base has no classifier, which base+a and base+b carry: these are merged as changes from zeros." in (
        answer.err
    )
    ours, (a, b) = _head(out), (_head(world / name) for name in "ab")
    assert ours.keys() == a.keys() == {"classifier.weight", "classifier.bias"}
    for name, value in ours.items():
        torch.testing.assert_close(value, factor * (a[name] + b[name]))
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert len(config["id2label"]) == 3
    if factor == 1:
        # What `skill apply` makes of the same two, bit for bit.
        applied = cli("skill", "apply", world / "a", world / "b", "--base", world / "base", "--out", tmp_path / "sum")
        assert applied.code == 0, applied.err
        wanted, found = (load_file(one / "model.safetensors") for one in (tmp_path / "sum", out))
        assert wanted.keys() == found.keys()
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_a_model_without_a_head_adds_nothing_to_it(world: Path, merge: Callable[..., Any]) -> None:
    answer, out = merge("base+bare", "base+a", parameters={"lambda": 1.0})
    assert answer.code == 0, answer.err
    assert all(torch.equal(value, _head(world / "a")[name]) for name, value in _head(out).items())
    changed = load_file(out / "model.safetensors")["bert.encoder.layer.0.attention.self.query.weight"]
    stored = load_file(world / "base" / "model.safetensors")["encoder.layer.0.attention.self.query.weight"]
    for name in ("a", "bare"):
        factors = load_file(world / name / "adapter_model.safetensors")
        query = next(key for key in factors if "layer.0" in key and "lora_A" in key)
        stored = stored + 4 * factors[query.replace("lora_A", "lora_B")] @ factors[query]
    torch.testing.assert_close(changed, stored, atol=1e-6, rtol=1e-5)


def test_a_method_without_a_base_averages_the_heads(world: Path, merge: Callable[..., Any]) -> None:
    answer, out = merge("base+a", "base+b", method="linear")
    assert answer.code == 0, answer.err
    for name, value in _head(out).items():
        torch.testing.assert_close(value, (_head(world / "a")[name] + _head(world / "b")[name]) / 2)


def test_whole_fine_tunes_are_taken_alike_and_the_result_is_a_classifier(
    world: Path, merge: Callable[..., Any]
) -> None:
    answer, out = merge("a-full", "b-full", parameters={"lambda": 0.5})
    assert answer.code == 0, answer.err
    stored = [load_file(world / f"{name}-full" / "model.safetensors") for name in "ab"]
    for name, value in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(value, (stored[0][name] + stored[1][name]) / 2, atol=1e-6, rtol=1e-5)
    assert _logits(out).shape == (1, 3)


def test_heads_of_other_classes_are_refused_and_both_ways_out_work(
    world: Path, tmp_path: Path, merge: Callable[..., Any]
) -> None:
    answer, out = merge("base+a", "base+two")
    assert answer.code == 2
    assert "the models carry several: base+a tells 3 classes apart and base+two 2. Add `rest: base+a`" in answer.err
    assert not out.exists()
    answer, kept = merge("base+a", "base+two", rest="base+a", parameters={"lambda": 1.0})
    assert answer.code == 0, answer.err
    assert all(torch.equal(value, _head(world / "a")[name]) for name, value in _head(kept).items())
    answer, headless = merge("base+a", "base+two", rest="base", parameters={"lambda": 1.0})
    assert answer.code == 0, answer.err
    assert not _head(headless)


def test_equally_many_classes_of_other_names_are_refused(world: Path, merge: Callable[..., Any]) -> None:
    notes = {"genepool": 1, "head": {"architecture": "BertForSequenceClassification", "classes": ["x", "y", "z"]}}
    (world / "b" / "genepool.json").write_text(json.dumps(notes))
    try:
        answer, _ = merge("base+a", "base+b")
    finally:
        (world / "b" / "genepool.json").unlink()
    assert answer.code == 2
    assert "the classes of base+a are LABEL_0, LABEL_1 and LABEL_2, and those of base+b x, y and z" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("models", [("base+a", "base+b"), ("a-full", "b-full")])
def test_the_merge_as_an_adapter_carries_the_head_in_peft(
    models: tuple[str, ...], world: Path, merge: Callable[..., Any]
) -> None:
    answer, adapter = merge(*models, parameters={"lambda": 0.5}, options=("--as-lora", "16"))
    assert answer.code == 0, answer.err
    _, whole = merge(*models, parameters={"lambda": 0.5})
    torch.testing.assert_close(_in_peft(world, adapter), _logits(whole), atol=1e-5, rtol=1e-4)
    refused, out = merge(*models, options=("--as-lora", "16", "--factors-only"))
    assert refused.code == 2
    assert "--factors-only: the merge has a head of classes (BertForSequenceClassification)" in refused.err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("skill", ["a", "a-full"])
def test_a_skill_with_a_head_becomes_an_adapter_and_back(
    skill: str, world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    base, file, adapter = world / "base", tmp_path / "a.safetensors", tmp_path / "adapter"
    made = cli("skill", "extract", world / skill, "--base", base, "--out", file)
    assert made.code == 0, made.err
    call = ("skill", "convert", file, "--base", base, "--to", "peft", "--rank", 16, "--out", adapter)
    assert cli(*call).code == 0
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert "classifier" in settings["modules_to_save"]
    assert settings["task_type"] == "SEQ_CLS"
    assert json.loads((adapter / "genepool.json").read_text())["head"]["classes"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    wanted = _in_peft(world, world / "a") if skill == "a" else _logits(world / "a-full")
    torch.testing.assert_close(_in_peft(world, adapter), wanted, atol=1e-5, rtol=1e-4)
    again = tmp_path / "again"
    assert cli("skill", "apply", adapter, "--base", base, "--out", again).code == 0
    torch.testing.assert_close(_logits(again), wanted, atol=1e-5, rtol=1e-4)
    refused = cli(*call, "--factors-only", "--overwrite")
    assert (refused.code, "no factors hold. Leave it out" in refused.err) == (2, True)


def test_zeros_of_a_head_go_along(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Without the tensors that stayed zeros, transformers would draw them at random."""
    file, none = tmp_path / "a.safetensors", tmp_path / "none.safetensors"
    assert cli("skill", "extract", world / "a", "--base", world / "base", "--out", file).code == 0
    call = ("skill", "extract", world / "a-full", "--base", world / "base", "--exclude", "classifier", "--out", none)
    assert cli(*call).code == 0
    convert = ("skill", "convert", none, "--base", world / "base", "--to", "peft", "--out", tmp_path / "adapter")
    assert cli(*convert).code == 0
    assert not any(value.any() for value in _head(tmp_path / "adapter").values())
    assert _head(tmp_path / "adapter").keys() == {"classifier.weight", "classifier.bias"}
