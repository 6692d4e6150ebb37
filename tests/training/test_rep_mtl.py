"""Rep-MTL: both terms against the equations written out, the slopes through saliencies, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from training_runs import QUICK, result_bytes, rows, told

from genepool.errors import InputError
from genepool.tasks import Example, Task, open_model
from genepool.tasks.models.digits.network import DigitsTransformer, Shape
from genepool.training import Training, find_objective
from genepool.training import run as running
from genepool.training.examples import TrainingExamples
from genepool.training.objectives.rep_mtl import RepMtl
from genepool.training.opened_training import OpenedTraining
from genepool.training.saliency import alignment, regulation
from genepool.training.session import Session


def rep_mtl(**options: Any) -> RepMtl:
    found = find_objective("rep_mtl", options)
    assert isinstance(found, RepMtl)
    return found


def entropy_by_hand(saliencies: torch.Tensor, *, signed: bool) -> float:
    """Equations 4 to 6, place by place."""
    tasks, samples, places, _ = saliencies.shape
    found = []
    for sample in range(samples):
        for place in range(places):
            parts = [saliencies[task, sample, place].double() for task in range(tasks)]
            sizes = [abs(float(one.mean())) if signed else float(one.abs().mean()) for one in parts]
            if sum(sizes):
                shares = [size / sum(sizes) for size in sizes]
                found.append(-sum(share * math.log(share) for share in shares if share))
    return sum(found) / len(found) if found else 0.0


def contrast_by_hand(saliencies: torch.Tensor, temperature: float) -> float:
    """Equations 7 to 9 with the matrices of width x width that they speak of."""
    tasks, samples, _, _ = saliencies.shape
    values = saliencies.double()
    maps = [[values[task, b].T @ values[task, b] for task in range(tasks)] for b in range(samples)]
    means = [values[:, b].mean(1).T for b in range(samples)]
    anchors = [one @ one.T for one in means]

    def alike(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one * other).sum() / (one.norm() * other.norm()))

    found = []
    for b in range(samples):
        against = sum(math.exp(alike(anchors[b], anchors[k]) / temperature) for k in range(samples) if k != b)
        found += [-math.log(math.exp(alike(anchors[b], maps[b][t]) / temperature) / against) for t in range(tasks)]
    return sum(found) / len(found)


shapes = st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(1, 4), st.integers(1, 5))


@settings(max_examples=40)
@given(shape=shapes, seed=st.integers(0, 2**31), scale=st.sampled_from([1e-9, 1e-3, 1.0, 1e4]), signed=st.booleans())
def test_both_terms_are_their_equations_at_any_scale(
    shape: tuple[int, int, int, int], seed: int, scale: float, signed: bool
) -> None:
    saliencies = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert float(regulation(saliencies, signed=signed)) == pytest.approx(
        entropy_by_hand(saliencies, signed=signed), rel=1e-4, abs=1e-5
    )
    assert float(alignment(saliencies, 0.5)) == pytest.approx(contrast_by_hand(saliencies, 0.5), rel=1e-3, abs=1e-4)


def test_the_entropy_by_hand() -> None:
    even, one = torch.ones(3, 2, 1, 4), torch.zeros(3, 2, 1, 4)
    one[1] = 1
    assert float(regulation(even)) == pytest.approx(math.log(3))
    assert float(regulation(one)) == pytest.approx(0, abs=1e-9)
    # A place that no task depends on does not count.
    assert float(regulation(torch.cat([even, torch.zeros(3, 2, 5, 4)], 2))) == pytest.approx(math.log(3))
    assert float(regulation(torch.zeros(3, 2, 1, 4))) == 0


def test_the_contrast_by_hand() -> None:
    # Two samples whose channels have nothing in common; each has the same saliency in both tasks.
    apart = torch.eye(2).reshape(1, 2, 1, 2).expand(2, 2, 1, 2)
    assert float(alignment(apart, 0.1)) == pytest.approx(-10, rel=1e-5)
    assert float(alignment(torch.ones(2, 2, 1, 2), 0.1)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("filled", [0.0, 1.0])
def test_slopes_are_finite_where_a_task_has_no_saliency(filled: float) -> None:
    saliencies = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    saliencies[0, :, 2:] = 0
    saliencies[1, 1] = 0
    values = (filled * saliencies).requires_grad_()
    rep_mtl().penalty(values).backward()
    assert values.grad is not None
    assert bool(torch.isfinite(values.grad).all())


# ---------------------------------------------------------------------- what is drawn


def tasks(**sizes: int) -> list[Task]:
    return [
        Task(name, {"train": [Example(str(at), f"{name}{at}", ("a",)) for at in range(size)]})
        for name, size in sizes.items()
    ]


@given(seed=st.integers(0, 2**31), size=st.integers(1, 9))
def test_every_task_has_its_part_and_every_example_its_turn(seed: int, size: int) -> None:
    lessons = TrainingExamples(tasks(few=6, many=11), seed=seed, valid=1)
    drawn: dict[str, list[str]] = {"few": [], "many": []}
    for step in range(11 * 6):
        for group in lessons.of_each(step, size):
            assert len(group) == size
            drawn[group[0].task.name] += [one.example.prompt for one in group]
    for name, count in (("few", 6), ("many", 11)):
        assert sorted(drawn[name][:count]) == sorted(f"{name}{at}" for at in range(count))
    assert lessons.of_each(3, size) == TrainingExamples(tasks(few=6, many=11), seed=seed, valid=1).of_each(3, size)


def test_aligned_tasks_come_with_the_same_numbers() -> None:
    lessons = TrainingExamples(tasks(one=7, two=7), seed=5, valid=1)
    for step in range(9):
        first, second = lessons.of_each(step, 4, aligned=True)
        assert [one.example.id for one in first] == [one.example.id for one in second]
    other = TrainingExamples(tasks(one=7, two=8), seed=5, valid=1)
    with pytest.raises(InputError, match="has 8 training examples and one has 7"):
        other.of_each(0, 4, aligned=True)


# ---------------------------------------------------------------------- steps


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ reads images of 8 x 8 pixels in two layers; tasks/{plain, turned} hold the same images, one turned over."""
    place = tmp_path_factory.mktemp("rep_mtl")
    torch.manual_seed(0)
    shape = Shape(16, 2, 2, 16)
    network = DigitsTransformer(shape)
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    (place / "base").mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, place / "base" / "model.safetensors")
    (place / "base" / "config.json").write_text(json.dumps(shape.config()))
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("valid", 8), ("test", 8)):
        images = generator.integers(0, 17, (count, 64))
        for task, turn in (("plain", 1), ("turned", -1)):
            folder = place / "tasks" / task
            folder.mkdir(parents=True, exist_ok=True)
            lines = [
                {"id": f"{at}", "prompt": " ".join(map(str, image[::turn])), "answer": str(at % 10)}
                for at, image in enumerate(images)
            ]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            classes = ", ".join(repr(str(n)) for n in range(10))
            (folder / "task.yaml").write_text(f"metric: exact_match\nclasses: [{classes}]\n")
    return place


def session(world: Path, options: dict[str, Any], **changes: Any) -> Session:
    recipe = Training(
        base=str(world / "base"), tasks=tuple(str(world / "tasks" / name) for name in ("plain", "turned")),
        objective="rep_mtl", options=options, steps=40, batch=8, learning_rate=0.01, clip=0.0, warmup=0.0,
        form="full", threads=1, **changes,
    )  # fmt: skip
    opened = OpenedTraining.open(recipe, others=False)
    model = open_model(str(world / "base")).load()
    return Session(recipe, model, opened.base, opened.lessons)  # type: ignore[arg-type]


def test_saliencies_are_the_slopes_at_the_middle_layer_and_are_followed(world: Path) -> None:
    one = session(world, {"aligned": True, "temperature": 0.5})
    trainer: Any = one.trainer
    network: Any = one.model.model

    def by_hand() -> torch.Tensor:
        """The whole objective, one task after the other, with the network cut behind its first block."""
        losses, saliencies = [], []
        for group in trainer.lessons.of_each(0, 4, aligned=True):
            pixels = torch.tensor([[int(n) / 16 for n in lesson.example.prompt.split()] for lesson in group])
            middle = network.states(pixels)[1]
            logits = network.head(network.norm(network.blocks[1](middle)[:, 0]))
            digits = torch.tensor([int(lesson.example.answer) for lesson in group])
            losses.append(torch.nn.functional.cross_entropy(logits, digits))
            saliencies.append(torch.autograd.grad(losses[-1], middle, create_graph=True)[0])
        stacked = torch.stack(saliencies)
        penalty = 0.9 * regulation(stacked) + 0.9 * alignment(stacked, 0.5)
        return (torch.stack(losses).sum() + penalty) / 2

    from genepool.training.trainers.rep_mtl import twice_differentiable

    assert one.gradients(0) == pytest.approx(float(by_hand().detach()), rel=1e-5)
    found = {name: parameter.grad.clone() for name, parameter in one.trained.parameters().items()}
    parameters = one.trained.parameters()
    with twice_differentiable(), torch.enable_grad():
        wanted = torch.autograd.grad(by_hand(), list(parameters.values()))
    for name, slope in zip(parameters, wanted, strict=True):
        assert torch.allclose(found[name], slope, rtol=1e-3, atol=1e-5), name
    # What is before the middle is moved by the terms too, not by the losses alone.
    plain = session(world, {"aligned": True, "tsr": 0, "csa": 0})
    plain.gradients(0)
    before = plain.trained.parameters()["patch_embed.weight"].grad
    assert before is not None
    assert not torch.allclose(found["patch_embed.weight"], before, rtol=0.05, atol=1e-4)


def test_a_signed_mean_says_nothing_behind_a_layer_norm(world: Path) -> None:
    """Why sizes are the default: the slopes at a stream that only layer norms read add up to 0 over its width."""
    trainer: Any = session(world, {}).trainer
    read: list[Any] = []
    with torch.enable_grad():
        losses = [trainer._of_task(n, group, read)[0] for n, group in enumerate(trainer.lessons.of_each(0, 4))]
        saliencies = trainer._saliencies(torch.stack(losses).sum(), read).detach()
    assert saliencies.shape == (2, 4, 5, 16)
    assert float(saliencies.mean(-1).abs().max()) < 1e-5 * float(saliencies.abs().max())


def test_weights_of_zero_are_learning_with_equal_weights(world: Path) -> None:
    one = session(world, {"tsr": 0, "csa": 0})
    total = one.gradients(0)
    assert total == pytest.approx(sum(row.loss for row in one.rows) / len(one.rows), rel=1e-5)
    assert [row.task for row in one.rows] == ["plain"] * 4 + ["turned"] * 4


# ---------------------------------------------------------------------- as it is typed


def typed(cli: Callable[..., Any], world: Path, out: Path, *options: Any) -> Any:
    return cli(
        "train", world / "tasks" / "plain", world / "tasks" / "turned", "--base", world / "base", "--out", out,
        "--objective", "rep_mtl", "--lora", 2, "--steps", 12, "--every", 5, "--batch", 8, "--learning-rate", 0.01,
        "--test", 4, "--quiet", *options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_repeats_its_steps(
    cli: Callable[..., Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--set", "aligned=true", "--set", "csa=1.5")
    answer = typed(cli, world, tmp_path / "whole", *asked)
    assert answer.code == 0, answer.err
    counts = dict(rows(tmp_path / "whole", "SELECT task, count(*) FROM examples GROUP BY task"))
    assert counts == {"plain": 48, "turned": 48}
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 7:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert typed(cli, world, tmp_path / "stopped", *asked).code == 130
    assert typed(cli, world, tmp_path / "stopped", *asked).code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert cli("verify-run", tmp_path / "stopped", "--step", 9, "--quiet").code == 0
    changed = typed(cli, world, tmp_path / "stopped", "--set", "aligned=true", "--set", "csa=1")
    assert changed.code == 2
    assert "csa was 1.5" in changed.err


@pytest.mark.slow
def test_texts_of_several_lengths_are_learned_together(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    places = [small_world / "tasks" / name for name in ("first", "grade")]
    answer = cli(
        "train", *places, "--base", small_world / "base", "--out", tmp_path / "run", "--objective", "rep_mtl", *QUICK
    )
    assert answer.code == 0, answer.err
    assert {row["task"] for row in told(tmp_path / "run")["target"]} == {"first", "grade"}
    losses = [loss for (loss,) in rows(tmp_path / "run", "SELECT loss FROM validations ORDER BY step")]
    assert losses[-1] < losses[0]


BAD = {
    "one task": (["plain"], (), "rep_mtl tells tasks apart, and there is one"),
    "a step of no equal parts": (["plain", "turned"], ("--batch", 7), "7 examples has no equal parts"),
    "one example of each": (["plain", "turned"], ("--batch", 2), "Set --batch 4"),
    "a task that comes twice": (["plain", "plain"], (), "tasks: two tasks are called 'plain'"),
    "micro batches": (
        ["plain", "turned"],
        ("--micro-batch", 4),
        "--micro-batch: does not go with the objective rep_mtl",
    ),
    "a sampler": (["plain", "turned"], ("--sampler", "stratified"), "sampler: does not go with the objective rep_mtl"),
    "no such module": (["plain", "turned"], ("--set", "at=block.0"), "has no module 'block.0'. Did you mean"),
    "a module that does not answer": (["plain", "turned"], ("--set", "at=blocks"), "runs 0 times in a pass"),
    "a negative weight": (["plain", "turned"], ("--set", "tsr=-1"), "tsr"),
    "an unknown option": (["plain", "turned"], ("--set", "lambda=1"), "lambda"),
    "a teacher": (["plain", "turned"], ("--teacher", "x"), "does not use a `teacher`"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_cannot_be_is_one_line_and_nothing_is_learned(
    cli: Callable[..., Any], world: Path, tmp_path: Path, case: str
) -> None:
    names, options, said = BAD[case]
    answer = cli(
        "train", *[world / "tasks" / name for name in names], "--base", world / "base", "--out", tmp_path / "run",
        "--objective", "rep_mtl", "--lora", 2, "--steps", 2, "--batch", 8, "--quiet", *options,
    )  # fmt: skip
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "train.json").exists()
