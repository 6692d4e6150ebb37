"""Models that do not go together: one line with the one reason, and a way out that works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

SIZES: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "deeper": ("LlamaForCausalLM", "LlamaConfig", {"num_hidden_layers": 3}),
    "wider": ("LlamaForCausalLM", "LlamaConfig", {"hidden_size": 32}),
    "body": ("LlamaModel", "LlamaConfig", {}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "words": ("BertForMaskedLM", "BertConfig", {}),
    "classes": ("BertForSequenceClassification", "BertConfig", {}),
    "more classes": ("BertForSequenceClassification", "BertConfig", {"num_labels": 5}),
    "four experts": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4}),
    "eight experts": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 8}),
}
REASONS = {
    ("llama", "qwen2"): "llama is a LlamaForCausalLM and qwen2 a Qwen2ForCausalLM. Merge models of one architecture.",
    ("llama", "deeper"): "llama has 2 layers and deeper has 3. Use `slices`",
    ("llama", "wider"): "hidden_size is 16 in llama and 32 in wider. Merge models of one architecture and size.",
    ("four experts", "eight experts"): "num_local_experts is 4 in four experts and 8 in eight experts.",
    (
        "llama",
        "body",
    ): "llama is a LlamaForCausalLM and body a LlamaModel, so their heads differ (llama has lm_head.weight)",
    (
        "classes",
        "words",
    ): "classes is a BertForSequenceClassification and words a BertForMaskedLM, so their heads differ",
    ("classes", "more classes"): "classes has 2 labels and more classes has 5",
}
Cli = Callable[..., Any]


def _build(folder: Path, name: str, seed: int = 0) -> Path:
    import transformers

    cls, config, settings = MODELS[name]
    torch.manual_seed(seed)
    getattr(transformers, cls)(getattr(transformers, config)(**{**SIZES, **settings})).save_pretrained(folder)
    return folder


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"genepool: 1\n{text}")
    return path


@pytest.mark.parametrize("pair", REASONS, ids=" and ".join)
def test_the_reason_is_one_line_and_nothing_is_written(pair: tuple[str, str], tmp_path: Path, cli: Cli) -> None:
    for name in pair:
        _build(tmp_path / name, name)
    recipe = _recipe(tmp_path, f"method: task_arithmetic\nbase: {pair[0]}\nmodels: [{pair[1]}]\n")
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    (line,) = [line for line in answer.err.splitlines() if line.startswith("error")]
    assert REASONS[pair] in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rest", ["llama", "gpt2"])
def test_names_that_look_alike_across_families_are_not_shared(rest: str, tmp_path: Path, cli: Cli) -> None:
    for name in ("llama", "gpt2"):
        _build(tmp_path / name, name)
    recipe = _recipe(tmp_path, f"method: linear\nmodels: [llama, gpt2]\nrest: {rest}\n")
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    assert "GPT2LMHeadModel" in answer.err
    assert "which share nothing but names. Merge models of one architecture." in answer.err
    assert not (tmp_path / "out").exists()


def _lose(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("base", [True, False])
def test_a_file_that_is_not_whole_is_told_from_another_architecture(base: bool, tmp_path: Path, cli: Cli) -> None:
    _build(tmp_path / "whole", "llama")
    _lose(_build(tmp_path / "part", "llama"), "model.layers.1.mlp.up_proj.weight")
    first, second = ("part", "whole") if base else ("whole", "part")
    recipe = _recipe(tmp_path, f"method: task_arithmetic\nbase: {first}\nmodels: [{second}]\n")
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    assert "error: part: is not whole: it lacks model.layers.1.mlp.up_proj.weight, which LlamaFor" in answer.err


def test_a_result_that_is_not_whole_is_never_silent(tmp_path: Path, cli: Cli) -> None:
    for seed, name in enumerate(("one", "two")):
        _lose(_build(tmp_path / name, "llama", seed), "model.layers.1.mlp.up_proj.weight")
    answer = cli("merge", _recipe(tmp_path, "method: linear\nmodels: [one, two]\n"), tmp_path / "out")
    assert answer.code == 0
    assert "warning: the result is not whole: it lacks model.layers.1.mlp.up_proj.weight" in answer.err


def test_merging_bodies_works_where_the_advice_is_to(tmp_path: Path, cli: Cli) -> None:
    _build(tmp_path / "body", "body")
    for seed, name in enumerate(("one", "two")):
        _build(tmp_path / name, "llama", seed)
    asked = "method: task_arithmetic\nbase: body\nmodels: [one, two]\nparameters: {lambda: 1.0}\n"
    answer = cli("merge", _recipe(tmp_path, asked), tmp_path / "out")
    assert answer.code == 2
    assert "To merge what they share and have the rest as in one, add `rest: one`." in answer.err
    assert cli("merge", _recipe(tmp_path, asked + "rest: one\n"), tmp_path / "out").code == 0
    head = load_file(tmp_path / "one" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"], head)
