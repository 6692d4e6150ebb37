"""Fast-slow chasing: the losses by hand, who moves whom, its limits, and the command that is typed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from training_runs import result_bytes, rows, told

from genepool.tasks import open_model
from genepool.training import Training, find_objective
from genepool.training import run as running
from genepool.training.objectives import PairLikelihoods
from genepool.training.objectives.fast_slow import FastSlow
from genepool.training.opened_training import OpenedTraining
from genepool.training.session import Session

SHORT = ("--lora", 2, "--steps", 30, "--every", 10, "--batch", 8, "--learning-rate", 0.01, "--test", 4, "--quiet")
MARGINS = st.floats(-20, 20, width=32)


def fast_slow(**options: Any) -> FastSlow:
    found = find_objective("fast_slow", options)
    assert isinstance(found, FastSlow)
    return found


def likelihoods(margin: float, beta: float = 0.5) -> PairLikelihoods:
    """Of one pair that is preferred by a margin, where the model began with none."""
    won = torch.tensor([margin / beta - 9.0], requires_grad=True)
    return PairLikelihoods(won, torch.tensor([-9.0]), torch.tensor([2.0]), torch.tensor([2.0]))


def test_both_losses_by_hand() -> None:
    objective, began = fast_slow(beta=0.5, alpha=0.2), likelihoods(0)

    def cost(x: float) -> float:
        return math.log1p(math.exp(-x))

    fast, slow = objective.both(likelihoods(1), likelihoods(-0.5), began, leads=True)
    assert fast.tolist() == pytest.approx([cost(1) + 0.2 * cost(1.5)])
    assert slow.tolist() == pytest.approx([cost(-0.5) - 0.2 * cost(1.5)])
    fast, slow = objective.both(likelihoods(1), likelihoods(-0.5), began, leads=False)
    assert fast.tolist() == pytest.approx([cost(1) - 0.2 * cost(-1.5)])
    assert slow.tolist() == pytest.approx([cost(-0.5) + 0.2 * cost(-1.5)])


@given(fast=MARGINS, slow=MARGINS, leads=st.booleans())
def test_each_set_is_moved_by_its_own_loss_and_towards_a_larger_margin(fast: float, slow: float, leads: bool) -> None:
    one, other = likelihoods(fast), likelihoods(slow)
    mine, theirs = fast_slow(beta=0.5, alpha=0.5).both(one, other, likelihoods(0), leads=leads)
    assert torch.autograd.grad(mine.sum(), other.chosen, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(theirs.sum(), one.chosen, allow_unused=True, retain_graph=True) == (None,)
    for loss, own in ((mine, one), (theirs, other)):
        (slope,) = torch.autograd.grad(loss.sum(), own.chosen)
        assert float(slope) < 0


def test_the_term_keeps_a_gradient_where_dpo_has_nearly_none() -> None:
    """What the term is for: pairs that are fitted already."""
    alone, chasing = [], []
    for alpha, found in ((0.0, alone), (0.5, chasing)):
        one, other = likelihoods(12), likelihoods(12)
        fast, slow = fast_slow(beta=0.5, alpha=alpha).both(one, other, likelihoods(0), leads=True)
        found += [float(torch.autograd.grad(loss.sum(), of.chosen)[0]) for loss, of in ((fast, one), (slow, other))]
    assert all(-1e-4 < slope < 0 for slope in alone)
    # At equal margins sigmoid is a half: beta alpha / 2.
    assert chasing == pytest.approx([-0.125, -0.125], abs=1e-4)


def session(world: Path, objective: str, options: dict[str, Any], **settings: Any) -> Session:
    recipe = Training(
        base=str(world / "base"), tasks=(str(world / "pairs" / "first"),), objective=objective, options=options,
        steps=4, batch=8, learning_rate=0.01, clip=0.0, **settings,
    )  # fmt: skip
    opened = OpenedTraining.open(recipe, others=False)
    model: Any = open_model(opened.base).load()
    return Session(recipe, model, opened.base, opened.lessons)


def step(one: Session, number: int) -> float:
    loss = one.gradients(number)
    one.optimiser.clip()
    one.optimiser.step(number)
    return loss


@pytest.mark.slow
def test_without_the_term_both_sets_learn_by_plain_dpo(small_world: Path) -> None:
    plain = session(small_world, "dpo", {})
    both = session(small_world, "fast_slow", {"alpha": 0, "slow": 1})
    slower = session(small_world, "fast_slow", {"alpha": 0, "slow": 0.5})
    for number in range(3):
        losses = [step(one, number) for one in (plain, both, slower)]
        assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)
    for name, values in plain.result().items():
        assert torch.allclose(both.result()[name], values, atol=1e-6)
        assert torch.allclose(slower.result()[name], values, atol=1e-6)
        second = name.replace(".default.", ".slow.")
        assert torch.allclose(both.optimiser.trained()[f"objective.{second}"], values, atol=1e-6)
        assert not torch.allclose(slower.optimiser.trained()[f"objective.{second}"], values, atol=1e-4)


@pytest.mark.slow
def test_parts_of_a_batch_have_the_gradients_of_the_whole(small_world: Path) -> None:
    whole, parts = (session(small_world, "fast_slow", {"alpha": 0.5}, micro_batch=size) for size in (None, 3))
    for number in range(3):
        assert step(parts, number) == pytest.approx(step(whole, number), rel=1e-4)
    for name, values in whole.optimiser.trained().items():
        assert torch.allclose(parts.optimiser.trained()[name], values, atol=1e-4)


@pytest.fixture
def chase(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`chase("run", ...)`: fast-slow chasing on the pairs of `first`."""

    def call(out: str, *options: Any) -> Any:
        return cli(
            "train", small_world / "pairs" / "first", "--base", small_world / "base", "--objective", "fast_slow",
            "--out", tmp_path / out, *SHORT, *options,
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_a_model_learns_to_prefer_and_the_fast_factors_are_the_result(
    cli: Callable[..., Any], chase: Callable[..., Any], tmp_path: Path
) -> None:
    answer = chase("run", "--set", "alpha=0.3", "--set", "slow=0.25", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["options"] == {"beta": 0.1, "alpha": 0.3, "slow": 0.25}
    assert found["validations"][-1]["score"] > 0.8
    adapter = tmp_path / "run" / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "genepool.json",
    ]  # fmt: skip
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        assert not any("slow" in name for name in file.keys())  # noqa: SIM118
    first, *_, last = [row[0] for row in rows(tmp_path / "run", "SELECT avg(margin) FROM examples GROUP BY step")]
    assert first == pytest.approx(0, abs=1e-4)
    assert last > 0.2
    assert cli("verify-run", tmp_path / "run", "--step", 13, "--quiet").code == 0


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    chase: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = ("--steps", 12, "--every", 5)
    assert chase("whole", *brief).code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 8:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert chase("stopped", *brief).code == 130
    assert chase("stopped", *brief).code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")


def test_all_tensors_cannot_be_trained_twice(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    answer = cli(
        "train", small_world / "pairs" / "first", "--base", small_world / "base", "--objective", "fast_slow", "--full",
        "--steps", 1, "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert answer.code == 2
    assert "fast_slow trains two sets of factors" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
