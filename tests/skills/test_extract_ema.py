"""`genepool skill extract --ema`: a fine-tune's EMA copies left out, or taken for its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genepool.weights import open_change, open_weights

Tensors = dict[str, torch.Tensor]
SHAPES = {"model.norm.weight": (4,), "model.layers.0.mlp.up_proj.weight": (8, 4), "lm_head.weight": (6, 4)}


def _plain(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def _with_copies(weights: Tensors) -> Tensors:
    copies = {f"model_ema.{name}": value + 1 for name, value in weights.items()}
    return {**weights, **copies, "model_ema.decay": torch.tensor(0.999)}


@pytest.mark.parametrize("base_holds_copies", [False, True])
@pytest.mark.parametrize(("ema", "added"), [("drop", 0.0), ("use", 1.0)])
def test_the_skill_is_of_the_weights_or_of_their_averages(
    ema: str,
    added: float,
    base_holds_copies: bool,
    save_model: Callable[..., Path],
    tmp_path: Path,
    cli: Callable[..., Any],
) -> None:
    plain, tuned = _plain(0), _plain(1)
    base = save_model("base", _with_copies(plain) if base_holds_copies else plain)
    fine = save_model("tuned", _with_copies(tuned))
    skill = tmp_path / "skill.safetensors"
    answer = cli("skill", "extract", fine, "--base", base, "--ema", ema, "--out", skill)
    assert answer.code == 0, answer.err
    assert f"note: the EMA copies of {fine} are {'left out' if ema == 'drop' else 'used in place'}" in answer.err
    change = open_change(skill, open_weights(base))
    assert set(change.names()) == set(SHAPES)
    for name, value in tuned.items():
        torch.testing.assert_close(change.whole(name).reshape(value.shape), value + added - plain[name])
    assert f"'ema': '{ema}'" in str(change.header)
    # It belongs to the base as it is: put back, the base has the fine-tune's weights.
    assert cli("skill", "apply", skill, "--base", base, "--out", tmp_path / "again").code == 0
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, value in tuned.items():
        torch.testing.assert_close(again[name], value + added)


def test_without_the_option_copies_are_named_and_the_way_out_works(
    save_model: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    base, fine = save_model("base", _plain(0)), save_model("tuned", _with_copies(_plain(1)))
    call = ("skill", "extract", fine, "--base", base, "--out", tmp_path / "skill.safetensors")
    answer = cli(*call)
    assert answer.code == 2
    assert "holds EMA copies beside its weights (model_ema.lm_head.weight" in answer.err
    assert all(way in answer.err for way in ("--ema drop", "--ema use"))
    assert not (tmp_path / "skill.safetensors").exists()
    assert cli(*call, "--ema", "drop").code == 0


def test_where_there_are_no_copies_the_option_says_nothing(
    save_model: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    base, fine = save_model("base", _plain(0)), save_model("tuned", _plain(1))
    answer = cli("skill", "extract", fine, "--base", base, "--ema", "use", "--out", tmp_path / "skill.safetensors")
    assert answer.code == 2
    assert answer.err.strip().endswith(f"--ema: neither {fine} nor {base} holds EMA copies. Leave it out.")
