"""Poly's draws: relaxed Bernoulli shares, row by row, that belong to a step; answers are given by their means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genepool.composition.routing.inventory import InventoryHooks, LayerModules

Cli = Callable[..., Any]


def modules(heads: int = 2, count: int = 3, rank: int = 2) -> LayerModules:
    dice = torch.Generator().manual_seed(5)
    return LayerModules(
        torch.randn(heads, count, 8 // heads, rank, generator=dice),
        torch.randn(heads, count, rank, 12 // heads, generator=dice),
        torch.randn(2, heads * count, generator=dice),
    )


def test_shares_are_drawn_as_torch_and_peft_draw_them() -> None:
    """PEFT: RelaxedBernoulli(temperature=1, logits).rsample(), divided by its sum in each head."""
    own = modules()
    found = own.drawn(1, 4, torch.Generator().manual_seed(11))
    torch.manual_seed(11)
    logits = own.logits[1].view(2, 3).expand(4, 2, 3)
    on = torch.distributions.RelaxedBernoulli(torch.tensor(1.0), logits=logits).rsample()
    torch.testing.assert_close(found, on / on.sum(-1, keepdim=True), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 2))
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_a_gradient_reaches_the_logits_through_a_draw() -> None:
    own = modules()
    own.logits.requires_grad_(True)
    own.drawn(0, 3, torch.Generator().manual_seed(1))[:, 0, 0].sum().backward()
    assert own.logits.grad is not None
    assert bool(own.logits.grad[0, :3].any())
    assert not bool(own.logits.grad[1].any())


def hooked(own: LayerModules) -> tuple[Any, InventoryHooks]:
    layer = torch.nn.Linear(8, 12, bias=False)
    torch.nn.init.zeros_(layer.weight)
    return layer, InventoryHooks({"layer.weight": own}, {"layer.weight": SimpleNamespace(module=layer)})  # type: ignore[dict-item]


@torch.no_grad()
def test_each_row_has_its_own_lora_and_a_step_has_its_own_draws() -> None:
    own = modules()
    layer, hooks = hooked(own)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
    means = layer(x)
    torch.testing.assert_close(means, (x @ own.mixed(0)[0]) @ own.mixed(0)[1])
    hooks.draw((7, 1))
    drawn = layer(x)
    again = layer(x)
    assert not torch.allclose(drawn, means, atol=1e-3)
    # A second microbatch of the step has draws of its own; the step taken again has the same ones.
    assert not torch.allclose(drawn, again, atol=1e-3)
    hooks.draw((7, 1))
    assert torch.equal(layer(x), drawn)
    hooks.draw((7, 2))
    assert not torch.allclose(layer(x), drawn, atol=1e-3)
    hooks.draw((7, 1))
    hooks.task = 1
    assert not torch.allclose(layer(x), drawn, atol=1e-3)
    # Every row is the LoRA of its own shares.
    hooks.task = 0
    hooks.draw((7, 1))
    rows = layer(x)
    hooks.draw((7, 1))
    shares = own.drawn(0, 3, hooks._generator("layer.weight", 7, 1))
    for row in range(3):
        down, up = own.mixed_by_row(shares[row : row + 1])
        torch.testing.assert_close(rows[row], (x[row] @ down[0]) @ up[0])
    # Tokens of all rows in one list get one draw.
    hooks.draw((7, 1))
    flat = layer(x.flatten(0, 1))
    down, up = own.mixed_by_row(own.drawn(0, 1, _again(hooks)))
    torch.testing.assert_close(flat, (x.flatten(0, 1) @ down[0]) @ up[0])
    hooks.draw(None)
    assert torch.equal(layer(x), means)
    hooks.remove()
    assert not bool(layer(x).any())


def _again(hooks: InventoryHooks) -> torch.Generator:
    hooks.draw((7, 1))
    return hooks._generator("layer.weight", 7, 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["poly", "mhr"])
def test_a_fit_draws_and_comes_out_the_same_again(cli: Cli, text_bed: Path, tmp_path: Path, method: str) -> None:
    def made(name: str, *more: str) -> dict[str, torch.Tensor]:
        heads = ("--set", "heads=4") if method == "mhr" else ()
        answer = cli(
            "compose", method, "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--examples", 8, "--out",
            tmp_path / name, "--set", "steps=4", "--set", "every=2", "--set", "batch=4", "--set", "modules=3", *heads,
            *more,
        )  # fmt: skip
        assert answer.code == 0, answer.err
        return load_file(tmp_path / name / "router.safetensors")

    first, again = made("first", "--set", "draws=true"), made("again", "--set", "draws=true")
    plain = made("plain")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], plain[name]) for name in first)
    said = json.loads((tmp_path / "first" / "composition.json").read_text())
    assert said["parameters"]["draws"] is True
    # It answers by the means: the same twice.
    asked = [cli("generate", f"{tmp_path / 'first'}#one", "--prompt", "abcd=") for _ in range(2)]
    assert asked[0].code == 0
    assert asked[0].out == asked[1].out


def test_one_module_has_no_shares_to_draw(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    answer = cli(
        "compose", "poly", text_bed / "lora" / "one", "--base", text_bed / "base", "--tasks", text_bed / "tasks",
        "--out", tmp_path / "out", "--set", "draws=true", "--set", "trains=mu",
    )  # fmt: skip
    assert answer.code == 2
    assert "error: --set draws: one module has no shares to draw. Leave it out" in answer.err
    assert not (tmp_path / "out").exists()
