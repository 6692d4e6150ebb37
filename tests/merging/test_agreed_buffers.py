"""Buffers that hold infinity by design are carried where all models agree on them, and refused elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

BUFFER, WEIGHT = "embedder.embedder.normalization.running_var", "embedder.embedder.normalization.weight"
METHODS = ["linear", "task_arithmetic", "ties", "dare_ties", "breadcrumbs", "della", "sce", "model_stock"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, first and second: small convolutional networks whose batch norm was never run, so its bound is open."""
    import transformers

    place = tmp_path_factory.mktemp("models")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", downsample_in_first_stage=False
    )
    for seed, name in enumerate(("base", "first", "second")):
        torch.manual_seed(seed)
        model = transformers.ResNetModel(config)
        model.get_buffer(BUFFER)[1:3] = torch.tensor([torch.inf, -torch.inf])
        model.save_pretrained(place / name)
    return place


def changed(folder: Path, tensor: str, value: float) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[tensor] = tensors[tensor].clone()
    tensors[tensor][1] = value
    save_file(tensors, file, metadata={"format": "pt"})


def recipe(models: Path, method: str, place: Path) -> str:
    text: dict[str, object] = {
        "genepool": 1,
        "method": method,
        "models": [str(models / "first"), str(models / "second")],
    }
    if method != "linear":
        text["base"] = str(models / "base")
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(text))
    return str(file)


@pytest.mark.parametrize("method", METHODS)
def test_what_all_agree_on_is_carried(method: str, models: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    answer = cli("merge", recipe(models, method, tmp_path), tmp_path / "out")
    assert answer.code == 0, answer.err
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(merged[BUFFER], load_file(models / "base" / "model.safetensors")[BUFFER])
    assert all(bool(torch.isfinite(value).all()) for name, value in merged.items() if name != BUFFER)


@pytest.mark.parametrize(("tensor", "value"), [(BUFFER, 1.0), (BUFFER, torch.nan), (WEIGHT, torch.inf)])
def test_other_infinities_are_refused(
    tensor: str, value: float, models: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    own = tmp_path / "models"
    shutil.copytree(models, own)
    changed(own / "second", tensor, value)
    answer = cli("merge", recipe(own, "linear", tmp_path), tmp_path / "out")
    assert answer.code == 2
    assert "holds NaN or infinity" in answer.err
    assert tensor in answer.err
    assert not (tmp_path / "out").exists()
