"""`genepool skill extract --only` and `--exclude`: a change in some tensors, with what was chosen on record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.weights import open_change, open_weights


@pytest.fixture
def models(save_model: Callable[..., Path]) -> tuple[Path, Path]:
    shapes = {"model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,), "lm_head.weight": (6, 4)}
    for layer in range(2):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (4, 4)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (8, 4)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (4, 8)
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tuned = {name: value + torch.randn(value.shape, generator=generator) for name, value in made.items()}
    return save_model("base", made), save_model("tuned", tuned)


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        (("--only", "*.mlp.*"), ".mlp."),
        (("--only", "model.layers.1.mlp", "--only", "head"), ("layers.1.mlp.", "lm_head")),
        (("--only", "mlp", "--exclude", "*.down_proj.*"), ".up_proj."),
        (("--exclude", "model", "--only", "lm_head.weight", "--only", "norm"), "lm_head"),
    ],
)
def test_a_skill_of_some_tensors(
    chosen: tuple[str, ...], wanted: Any, models: tuple[Path, Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    base, tuned = models
    out = tmp_path / "some.safetensors"
    answer = cli("skill", "extract", tuned, "--base", base, "--out", out, *chosen)
    assert answer.code == 0, answer.err
    change = open_change(out, open_weights(base))
    parts = (wanted,) if isinstance(wanted, str) else wanted
    assert set(change.names()) == {name for name in open_weights(base).names() if any(part in name for part in parts)}
    before, after = open_weights(base), open_weights(tuned)
    for name in change.names():
        torch.testing.assert_close(
            change.whole(name).reshape(before.info(name).shape), after.read(name) - before.read(name)
        )
    said = str(change.header)
    for pattern in chosen[1::2]:
        assert repr(pattern) in said


def test_patterns_that_mean_nothing_or_all_are_refused(
    models: tuple[Path, Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    base, tuned = models
    call = ("skill", "extract", tuned, "--base", base, "--out", tmp_path / "s.safetensors")
    answer = cli(*call, "--only", "model.layer")
    assert (answer.code, "--only: 'model.layer' matches no tensor" in answer.err) == (2, True)
    answer = cli(*call, "--exclude", "*")
    assert (answer.code, "--exclude: every tensor is left out" in answer.err) == (2, True)
    assert not (tmp_path / "s.safetensors").exists()
