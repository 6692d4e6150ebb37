"""A running mean of the weights: its formula, where it stands, and that a kill does not change a bit of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_runs import result_bytes, told

from genepool.training import Optimisation, Optimiser
from genepool.training import run as running
from genepool.training.averaging import AveragingOptimiser, judged_values
from genepool.training.recipe import Average
from genepool.weights import open_weights

STEPS = Optimisation(6, 0.1, shape="constant")


def take(optimiser: Optimiser, parameters: Mapping[str, torch.nn.Parameter], first: int, last: int) -> None:
    """Steps whose gradients belong to their numbers."""
    for number in range(first, last):
        for at, parameter in enumerate(parameters.values()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * number + at))
            parameter.grad = drawn.to(parameter.dtype)
        optimiser.clip()
        optimiser.step(number)


def fresh(average: Average, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Any], AveragingOptimiser]:
    start = torch.arange(6.0).reshape(2, 3)
    parameters = {name: torch.nn.Parameter(start.to(dtype, copy=True)) for name in ("own", "beside")}
    return parameters, AveragingOptimiser(parameters, STEPS, average, ["own"])


@given(decay=st.floats(0, 0.99), rises=st.booleans())
def test_the_mean_is_the_sum_that_its_formula_says(decay: float, rises: bool) -> None:
    average = Average(decay=decay, rises=rises)
    parameters, optimiser = fresh(average)
    mean = parameters["own"].detach().double().clone()
    for number in range(STEPS.steps):
        take(optimiser, parameters, number, number + 1)
        weight = min(decay, (2 + number) / (11 + number)) if rises else decay
        mean = weight * mean + (1 - weight) * parameters["own"].detach().double()
    torch.testing.assert_close(optimiser.judged()["own"].double(), mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(optimiser.judged()["beside"], parameters["beside"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_stands_in_the_model_only_while_it_is_judged(dtype: torch.dtype) -> None:
    parameters, optimiser = fresh(Average(decay=0.5), dtype)
    plain = {name: torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).to(dtype)) for name in ("own", "beside")}
    other = Optimiser(plain, STEPS)
    for number in range(STEPS.steps):
        take(optimiser, parameters, number, number + 1)
        take(other, plain, number, number + 1)
        mean, weights = optimiser.judged()["own"].clone(), parameters["own"].detach().clone()
        with pytest.raises(RuntimeError), optimiser.in_place():
            assert torch.equal(parameters["own"], mean.to(dtype))
            # What is written is read while the mean stands in the model.
            assert torch.equal(optimiser.judged()["own"], mean)
            raise RuntimeError
        assert torch.equal(parameters["own"], weights)
        assert torch.equal(optimiser.judged()["own"], mean)
    # What is judged never moves what is trained.
    assert all(torch.equal(parameters[name], plain[name]) for name in plain)


def test_a_state_brings_the_mean_back_to_the_same_bits() -> None:
    average = Average(decay=0.9)
    parameters, optimiser = fresh(average)
    take(optimiser, parameters, 0, 3)
    state = {name: tensor.clone() for name, tensor in optimiser.state().items()}
    take(optimiser, parameters, 3, 6)
    again, other = fresh(average)
    other.restore(state, 3)
    take(other, again, 3, 6)
    assert all(torch.equal(one, other.state()[name]) for name, one in optimiser.state().items())
    forked, third = fresh(average)
    third.restore(judged_values(state), 0)
    assert torch.equal(forked["own"], state["average:own"])
    assert torch.equal(third.judged()["own"], state["average:own"])
    assert torch.equal(forked["beside"], state["value:beside"])


@pytest.fixture
def averaged(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`averaged("run", 0.9)`: trains the task `first` with a mean of this decay, or with none."""

    def call(out: str, decay: float | None, *options: Any, **keys: Any) -> Any:
        recipe = {
            "train": 1, "base": str(small_world / "base"), "tasks": [str(small_world / "tasks" / "first")],
            "steps": 30, "every": 10, "batch": 16, "learning_rate": 0.02, "schedule": "constant", **keys,
        }  # fmt: skip
        if decay is not None:
            recipe["average"] = {"decay": decay}
        file = tmp_path / f"{out}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        return cli("train", file, "--out", tmp_path / out, "--quiet", *options)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lora", "full"])
def test_the_mean_is_what_is_validated_and_written(
    averaged: Callable[..., Any], small_world: Path, tmp_path: Path, form: str
) -> None:
    for out, decay in (("plain", None), ("none", 0.0), ("mean", 0.9)):
        answer = averaged(out, decay, form=form)
        assert answer.code == 0, answer.err
    # A mean with a decay of 0 is the weights; the notes of a result say that there was one.
    file = "skill.safetensors" if form == "full" else "adapter/adapter_model.safetensors"
    weights, none = (load_file(tmp_path / out / file) for out in ("plain", "none"))
    assert all(torch.equal(weights[name], none[name]) for name in weights.keys() | none.keys())
    plain, mean = told(tmp_path / "plain"), told(tmp_path / "mean")
    assert plain["validations"][1:] != mean["validations"][1:]
    assert plain["validations"][1:] == told(tmp_path / "none")["validations"][1:]
    assert mean["average"] == {"decay": 0.9, "rises": True}
    assert plain["fingerprint"] != mean["fingerprint"]
    if form == "full":
        state = load_file(tmp_path / "mean" / "states" / f"{mean['best_step']:07d}" / "state.safetensors")
        base = open_weights(str(small_world / "base"))
        written = open_weights(str(tmp_path / "mean" / "skill.safetensors"), base=base)
        for name in (one.removeprefix("average:") for one in state if one.startswith("average:")):
            torch.testing.assert_close(written.read(name), state[f"average:{name}"])


@pytest.mark.slow
def test_a_training_with_a_mean_goes_on_to_the_same_bits(
    averaged: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert averaged("whole", 0.9).code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 17:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert averaged("stopped", 0.9).code == 130
    assert averaged("stopped", 0.9).code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")
    assert cli("verify-run", tmp_path / "whole", "--step", 25, "--quiet").code == 0
    changed = averaged("stopped", 0.8)
    assert changed.code == 2
    assert "average.decay was 0.9 and is 0.8" in changed.err


@pytest.mark.slow
def test_a_fork_begins_with_the_mean(averaged: Callable[..., Any], tmp_path: Path) -> None:
    assert averaged("first", 0.9).code == 0
    assert averaged("second", None, "--fork", tmp_path / "first", learning_rate=0.001).code == 0
    best = min(told(tmp_path / "first")["validations"], key=lambda one: one["loss"])
    assert told(tmp_path / "second")["validations"][0]["loss"] == pytest.approx(best["loss"], rel=1e-5)


@pytest.mark.parametrize("decay", [1.0, -0.1, "much"])
def test_an_impossible_decay_is_refused(averaged: Callable[..., Any], decay: Any) -> None:
    answer = averaged("run", decay)
    assert answer.code == 2
    assert "average.decay" in answer.err
