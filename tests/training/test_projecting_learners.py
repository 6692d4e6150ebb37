"""TRGP and CUBER: whose directions a task owns, how weights are scaled, what moves when, and what is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_runs import told
from transformers.pytorch_utils import Conv1D

from genepool.training.continual.memory import Memory, read_memory
from genepool.training.continual.spaces import ProjectedLayer, ScaledSpace, task_directions
from genepool.training.learners import find_learner

SHORT = ("--steps", 6, "--every", 3, "--batch", 8, "--learning-rate", 0.02, "--test", 6, "--quiet", "--lora", 2)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis_of(width: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(drawn(width, count, seed=seed))[0]


@given(st.integers(0, 10**6), st.floats(0.05, 1), st.integers(0, 6))
def test_a_task_owns_the_fewest_directions_that_hold_its_share(seed: int, energy: float, known: int) -> None:
    inputs = drawn(9, 6, seed=seed)
    covariance = inputs.T @ inputs
    start = basis_of(6, known, seed + 1) if known else None
    basis, own = task_directions(start, covariance, energy)
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), atol=1e-9)
    assert start is None or torch.equal(basis[:, :known], start)
    total = inputs.square().sum()
    held = (inputs @ basis[:, own]).square().sum(0)
    assert held.sum() / total >= energy - 1e-9
    # One direction fewer would not be enough.
    assert (held.sum() - held.min()) / total < energy + 1e-9
    assert own.tolist() == sorted(set(own.tolist()))
    # What is new is the task's.
    assert set(range(known, basis.shape[1])) <= set(own.tolist())


def test_inputs_of_nothing_need_no_direction() -> None:
    basis, own = task_directions(None, torch.zeros(3, 3, dtype=torch.float64), 0.9)
    assert basis.shape == (3, 0)
    assert own.tolist() == []


@pytest.mark.parametrize("inputs_first", [False, True])
def test_a_scaled_space_is_the_weight_of_the_formula(inputs_first: bool) -> None:
    space, scale = basis_of(5, 2).float(), drawn(2, 2, seed=3).float()
    layer: Any = Conv1D(4, 5) if inputs_first else torch.nn.Linear(5, 4)
    weight = (layer.weight.T if inputs_first else layer.weight).detach()
    scaled = ScaledSpace.scaled(space, scale)
    wanted = weight + weight @ space @ (scale - torch.eye(2)) @ space.T
    inputs = drawn(3, 5, seed=4).float()
    with torch.no_grad():
        found = layer(inputs + scaled.added(inputs))
        assert torch.allclose(found, inputs @ wanted.T + layer.bias, atol=1e-5)
        change = scaled.change(layer.weight.detach(), inputs_first=inputs_first)
        folded = layer.weight + change
    assert torch.allclose(folded.T if inputs_first else folded, wanted, atol=1e-5)
    assert ScaledSpace.unscaled(space).added(inputs).abs().max() < 1e-6


def placed(name: str, options: dict[str, Any], tensors: dict[str, torch.Tensor], tasks: int) -> Any:
    """A learner before its task, with a layer `w` of 2 outputs and 4 inputs, whose input axes earlier tasks own."""
    learner: Any = find_learner(name, options)
    weight = torch.nn.Parameter(drawn(2, 4).float())
    learner.memory = Memory({"w": torch.eye(4), **tensors})
    module = torch.nn.Linear(4, 2)
    learner.place = SimpleNamespace(
        number=tasks, seed=0, model=SimpleNamespace(device=torch.device("cpu"), model=torch.nn.Module()),
        parameters={"w": weight}, values={"w": weight.detach()}, lessons=[],
        start={"w": weight.detach().clone()},
    )  # fmt: skip
    learner._layers, learner._bases = {"w": ProjectedLayer(module, inputs_first=False)}, {"w": torch.eye(4)}
    return learner


def test_the_nearest_related_tasks_are_scaled() -> None:
    owned = {f"own:{task}:w": torch.tensor([task]) for task in range(4)}
    trgp = placed("trgp", {"related": 0.3, "tasks": 2}, owned, 4)
    gradient = torch.tensor([[3.0, 0.5, 2.0, 2.5], [0.0, 0.0, 0.0, 0.0]])
    shares = trgp._shares("w", gradient)
    assert shares == pytest.approx({at: abs(float(gradient[0, at])) / float(gradient.norm()) for at in range(4)})
    assert trgp._sorted("w", gradient) == ([0, 3], [])
    assert placed("trgp", {"related": 0.9}, owned, 4)._sorted("w", gradient) == ([], [])


def test_cuber_sorts_earlier_tasks_into_its_three_regimes() -> None:
    agreeing, against = (
        torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0] * 4]),
        torch.tensor([[0.0, 0.0, -1.0, 0.0], [0.0] * 4]),
    )
    owned = {f"own:{task}:w": torch.tensor([task]) for task in range(3)}
    gradients = {"gradient:0:w": agreeing, "gradient:1:w": agreeing, "gradient:2:w": against}
    gradient = torch.tensor([[0.1, 2.0, 2.0, 0.0], [0.0] * 4])
    cuber = placed("cuber", {"related": 0.5}, {**owned, **gradients}, 3)
    # The first has little of the gradient, the second agrees, the third does not.
    assert cuber._sorted("w", gradient) == ([2], [1])
    strict = placed("cuber", {"related": 0.5, "agreement": 0.9}, {**owned, **gradients}, 3)
    assert strict._sorted("w", gradient) == ([1, 2], [])


def test_what_cuber_leaves_free_moves_and_is_held_by_its_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both own the axis 1, the second alone the axis 2.
    owned = {"own:0:w": torch.tensor([0, 1]), "own:1:w": torch.tensor([1, 2])}
    agreeing = torch.tensor([[0.0, 1.0, 5.0, 0.0], [0.0] * 4])
    cuber = placed("cuber", {"related": 0.5, "hold": 2.0}, {**owned, "gradient:1:w": agreeing}, 2)
    cuber.place.loss_gradient = lambda _: {"w": torch.tensor([[0.0, 1.0, 3.0, 0.0], [0.0] * 4])}
    monkeypatch.setattr("genepool.training.learners.gpm.linear_layers", lambda _: cuber._layers)
    cuber.begin_task()
    weight = cuber.place.parameters["w"]
    weight.grad = torch.ones(2, 4)
    cuber.after_backward()
    # The axes of the first task are kept, the one of the second alone is free, as is the one that no task owns.
    assert weight.grad.tolist() == [[0, 0, 1, 1]] * 2
    with torch.no_grad():
        weight += torch.tensor([[7.0, 7.0, 3.0, 7.0], [7.0, 7.0, 1.0, 7.0]])
    assert float(cuber.penalty(0).detach()) == pytest.approx(2 * (9 + 1), rel=1e-5)


@pytest.fixture
def learn(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(out: str, learner: str, *options: Any) -> Any:
        named = [small_world / "tasks" / name for name in ("first", "grade")]
        base = ("--base", small_world / "base", "--out", tmp_path / out)
        return cli("train", *named, "--learner", learner, *base, *SHORT, *options)

    return call


def changes(run: Path, number: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What one task is asked with after it, and after the last one."""
    file = "adapter/adapter_model.safetensors"
    return (
        load_file(run / "tasks" / f"{number:04d}" / "asked" / f"{number:04d}" / file),
        load_file(run / "tasks" / "0002" / "asked" / f"{number:04d}" / file),
    )


@pytest.mark.slow
def test_after_trgp_an_earlier_task_is_answered_as_before_on_the_inputs_that_it_owns(
    learn: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--set", "examples=6", "--set", "energy=0.6", "--set", "related=0")
    assert learn("run", "trgp", *options).code == 0
    run = tmp_path / "run"
    memory = read_memory(run / "tasks" / "0001").tensors
    before, after = changes(run, 1)
    moved = 0.0
    for name, tensor in after.items():
        difference = tensor - before[name]
        moved += float(difference.abs().max())
        basis = memory[name.replace(".weight", ".default.weight")]
        assert (difference @ basis).abs().max() < 1e-5, name
    assert moved > 0.01
    # The second task has weights of its own, which are the result.
    _, own = changes(run, 2)
    result = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, result[name]) for name, tensor in own.items())
    assert any(not torch.equal(tensor, after[name]) for name, tensor in own.items())
    scales = [
        tensor for name, tensor in read_memory(run / "tasks" / "0002").tensors.items() if name.startswith("scale:1:0:")
    ]
    assert scales
    assert any((scale - torch.eye(len(scale))).abs().max() > 1e-4 for scale in scales)
    said = told(run)
    assert said["matrix"][0][1] == said["untrained"][1]
    assert said["stages"][1]["facts"]["scaled"] == {"0": len(scales)}


@pytest.mark.slow
def test_the_first_task_of_trgp_is_that_of_gpm(learn: Callable[..., Any], tmp_path: Path) -> None:
    shared = ("--set", "examples=6", "--set", "energy=0.6")
    assert learn("gpm", "gpm", *shared).code == 0
    assert learn("trgp", "trgp", *shared).code == 0
    file = "tasks/0001/adapter/adapter_model.safetensors"
    one, other = load_file(tmp_path / "gpm" / file), load_file(tmp_path / "trgp" / file)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    bases = [read_memory(tmp_path / run / "tasks" / "0001").tensors for run in ("gpm", "trgp")]
    for name, basis in bases[0].items():
        # The same space, whatever its basis.
        assert torch.allclose(basis @ basis.T, bases[1][name] @ bases[1][name].T, atol=1e-5)


@pytest.mark.slow
def test_cuber_keeps_gradients_and_counts_them(learn: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--set", "examples=6", "--set", "energy=0.6", "--set", "related=0", "--set", "agreement=-1")
    assert learn("run", "cuber", *options, "--set", "hold=0.5").code == 0
    memory = read_memory(tmp_path / "run" / "tasks" / "0001")
    gradients = [name for name in memory.tensors if name.startswith("gradient:0:")]
    assert len(gradients) == sum(name.startswith("own:0:") for name in memory.tensors)
    # Every gradient agrees by this rule, so all of the first task's space may move.
    assert told(tmp_path / "run")["stages"][1]["facts"]["moved"] == len(gradients)
    before, after = changes(tmp_path / "run", 1)
    basis = {name: memory.tensors[name.replace(".weight", ".default.weight")] for name in after}
    assert any(((after[name] - before[name]) @ basis[name]).abs().max() > 1e-4 for name in after)


@pytest.mark.slow
@pytest.mark.usefixtures("loud")
@pytest.mark.parametrize(
    ("learner", "said"), [("gpm", "fill the whole space"), ("inf_lora", "fewer directions outside of those")]
)
def test_a_full_space_is_told_with_the_task(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, learner: str, said: str
) -> None:
    named = [small_world / "tasks" / name for name in ("first", "grade")]
    settings = ("--steps", 2, "--batch", 4, "--test", 2, "--lora", 2, "--set", "energy=1", "--set", "examples=40")
    answer = cli(
        "train", *named, "--learner", learner, "--base", small_world / "base", "--out", tmp_path / "run", *settings
    )
    assert answer.code == 0, answer.err
    lines = [line for line in " ".join(answer.err.split()).split("grade: ") if said in line]
    assert lines, answer.err
    assert "first: in" not in answer.err


def test_options_of_trust_regions_are_checked(learn: Callable[..., Any], tmp_path: Path) -> None:
    for learner, option in (
        ("trgp", "related=1.5"),
        ("trgp", "tasks=0"),
        ("cuber", "agreement=1"),
        ("cuber", "hold=-1"),
    ):
        answer = learn("run", learner, "--set", option)
        assert answer.code == 2
        assert option.split("=")[0] in answer.err
        assert answer.err.count("\n") == 1
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_view_that_is_gone_is_named(learn: Callable[..., Any], tmp_path: Path) -> None:
    import shutil

    assert learn("run", "trgp", "--set", "examples=4", "--set", "energy=0.5").code == 0
    run = tmp_path / "run"
    shutil.rmtree(run / "tasks" / "0001" / "asked" / "0001")
    (run / "train.json").unlink()
    answer = learn("run", "trgp", "--set", "examples=4", "--set", "energy=0.5")
    assert answer.code == 2
    assert "what was trained is missing" in answer.err
    mark = run / "tasks" / "0001" / "task.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "views": -1}))
    assert "is damaged" in learn("run", "trgp", "--set", "examples=4", "--set", "energy=0.5").err
