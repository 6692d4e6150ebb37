"""Hard augmentations: the transformations by hand, whom each loss moves, and the command that is typed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from training_runs import result_bytes, told

from genepool.seeding import torch_generator
from genepool.tasks import open_model
from genepool.tasks.models.digits.network import DigitsTransformer, Shape
from genepool.training import Training, find_objective
from genepool.training import run as running
from genepool.training.augmenter import LIMITS, Augmenter, augmented, transformed
from genepool.training.objectives.hard import Hard
from genepool.training.opened_training import OpenedTraining
from genepool.training.session import Session

SHORT = ("--lora", 2, "--steps", 12, "--every", 5, "--batch", 8, "--learning-rate", 0.01, "--test", 4, "--quiet")


def hard(**options: Any) -> Hard:
    found = find_objective("hard", options)
    assert isinstance(found, Hard)
    return found


def write_digits(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    shape = Shape(16, 1, 2, 16)
    network = DigitsTransformer(shape)
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(shape.config()))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """student/, teacher/ and the task `blobs`: images of 8 x 8 pixels and a digit each."""
    place = tmp_path_factory.mktemp("digits")
    write_digits(place / "student", 0)
    write_digits(place / "teacher", 1)
    task = place / "tasks" / "blobs"
    task.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", 32), ("valid", 8), ("test", 8)):
        lines = []
        for number in range(count):
            pixels = generator.integers(0, 17, 64)
            lines.append({"id": f"{split}-{number}", "prompt": " ".join(map(str, pixels)), "answer": str(number % 10)})
        (task / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (task / "task.yaml").write_text(f"metric: exact_match\nclasses: [{', '.join(repr(str(n)) for n in range(10))}]\n")
    return place


def numbers(**values: float) -> torch.Tensor:
    return torch.tensor([[values.get(name, 0.0) for name in LIMITS]])


def test_transformations_by_hand() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.allclose(transformed(image, numbers()), image, atol=1e-5)
    # Half of the width is two pixels: the right half is seen on the left, and the border is repeated.
    moved = transformed(image, numbers(across=1.0))
    assert torch.allclose(moved[..., :2], image[..., 2:], atol=1e-4)
    assert torch.allclose(moved[..., 2:], image[..., 3:].expand(1, 1, 4, 2), atol=1e-4)
    assert torch.allclose(transformed(image, numbers(down=0.5))[0, 0, 0], image[0, 0, 1], atol=1e-4)
    turned = transformed(image, numbers(rotation=math.pi / 2))
    assert torch.allclose(turned, torch.rot90(image, 1, (2, 3)), atol=1e-4)


def test_rows_of_pixels_are_transformed_as_images() -> None:
    images, drawn = torch.rand(3, 1, 8, 8), 0.3 * torch.randn(3, 5)
    rows = augmented({"pixels": images.reshape(3, 64)}, drawn)
    values = augmented({"pixel_values": images}, drawn)
    assert rows is not None
    assert values is not None
    assert torch.equal(rows["pixels"].reshape(3, 1, 8, 8), values["pixel_values"])
    assert augmented({"input_ids": torch.zeros(3, 4)}, drawn) is None


@given(st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5), st.floats(-5, 5, width=32))
def test_no_transformation_lies_beyond_its_limit(noise: list[float], mean: float) -> None:
    augmenter = Augmenter(torch.device("cpu"))
    augmenter.mean.data.fill_(mean)
    found = augmenter.drawn(torch.tensor([noise]))
    assert bool((found.abs() <= torch.tensor(list(LIMITS.values())) + 1e-6).all())


def test_the_loss_of_the_transformations_by_hand() -> None:
    even, sure, other = (torch.tensor([[p, 1 - p]]).log() for p in (0.5, 0.9, 0.2))

    def divergence(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    found = hard(keep=2).harder(sure, even, other)
    assert found.tolist() == pytest.approx([2 * divergence(0.9, 0.5) - divergence(0.5, 0.2)], rel=1e-5)


def session(world: Path, options: dict[str, Any], **settings: Any) -> Session:
    recipe = Training(
        base=str(world / "student"), tasks=(str(world / "tasks" / "blobs"),), objective="hard", options=options,
        teacher=str(world / "teacher"), steps=40, batch=16, learning_rate=0.01, clip=0.0, warmup=0.0, **settings,
    )  # fmt: skip
    opened = OpenedTraining.open(recipe, others=False)
    model, teacher = (open_model(str(world / name)).load() for name in ("student", "teacher"))
    return Session(recipe, model, opened.base, opened.lessons, teacher)  # type: ignore[arg-type]


def test_each_loss_moves_its_own_and_the_teacher_stays(world: Path) -> None:
    one = session(world, {"keep": 0.5})
    trainer: Any = one.trainer
    before = {name: tensor.clone() for name, tensor in trainer._other.model.state_dict().items()}
    one.gradients(0)
    found = {name: parameter.grad.clone() for name, parameter in trainer.parameters().items()}
    lessons = trainer.lessons.at(0, 16)
    noise = torch.randn(16, 5, generator=torch_generator(0, "augment", 0))

    def harder() -> float:
        return (
            sum(float(trainer._both(batch, noise[places])[1].sum()) for batch, places in trainer.encoded(lessons)) / 16
        )

    # Finite differences of the transformations' own loss.
    for name, parameter in trainer.parameters().items():
        for at in range(5):
            values = []
            for change in (1e-2, -1e-2):
                with torch.no_grad():
                    parameter[at] += change
                    values.append(harder())
                    parameter[at] -= change
            slope = (values[0] - values[1]) / 2e-2
            assert float(found[name][at]) == pytest.approx(slope, rel=0.3, abs=0.02)
    assert all(parameter.grad is None for parameter in trainer._other.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer._other.model.state_dict().items())
    # With a weight of 0 the model learns from the images given alone: plain distillation.
    plain = session(world, {"weight": 0})
    plain.gradients(0)
    expected = {name: parameter.grad.clone() for name, parameter in plain.trained.parameters().items()}
    losses = [
        plain.trainer.objective.losses(plain.model, batch, trainer._other) for batch, _ in trainer.encoded(lessons)
    ]  # type: ignore[attr-defined]
    with torch.enable_grad():
        for parameter in plain.trained.parameters().values():
            parameter.grad = None
        (torch.cat(losses).sum() / 16).backward()
    for name, parameter in plain.trained.parameters().items():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-6)


@pytest.mark.slow
def test_learned_transformations_are_harder_than_random_ones_and_kept_ones_nearer(world: Path) -> None:
    def after(**options: Any) -> tuple[float, float]:
        """How far the student is from the teacher on transformed images, and how far the teacher moved."""
        one = session(world, options)
        trainer: Any = one.trainer
        # The student stands still, so that the transformations alone are seen.
        for number in range(25):
            one.gradients(number)
            for parameter in one.trained.parameters().values():
                parameter.grad = None
            one.optimiser.clip()
            one.optimiser.step(number)
        noise = torch.randn(16, 5, generator=torch.Generator().manual_seed(5))
        apart, moved = [], []
        lessons = trainer.lessons.at(99, 16)
        for batch, places in trainer.encoded(lessons):
            inputs = augmented(batch.inputs, trainer.augmenter.drawn(noise[places]))
            turned = type(batch)(**{**batch.__dict__, "inputs": inputs})
            given, teacher = (trainer._other.answer_logits(x).log_softmax(-1).detach() for x in (batch, turned))
            student = trainer.model.answer_logits(turned).log_softmax(-1).detach()
            apart.append((teacher.exp() * (teacher - student)).sum(-1))
            moved.append((given.exp() * (given - teacher)).sum(-1))
        return float(torch.cat(apart).mean()), float(torch.cat(moved).mean())

    random, free, held = after(pace=0), after(keep=0, pace=20), after(keep=20, pace=20)
    assert free[0] > random[0]
    assert held[1] < random[1]


@pytest.fixture
def distil(cli: Callable[..., Any], world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`distil("run", ...)`: the student learns from the teacher."""

    def call(out: str, *options: Any) -> Any:
        return cli(
            "train", world / "tasks" / "blobs", "--base", world / "student", "--teacher", world / "teacher",
            "--objective", "hard", "--out", tmp_path / out, *SHORT, *options,
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_a_student_learns_and_a_stopped_run_goes_on_to_the_same_bits(
    cli: Callable[..., Any], distil: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = distil("whole", "--set", "keep=0.5", "--set", "pace=5", "--json")
    assert answer.code == 0, answer.err
    losses = [one["loss"] for one in json.loads(answer.out)["validations"]]
    assert losses[-1] < losses[0]
    state = load_file(tmp_path / "whole" / "states" / "0000012" / "state.safetensors")
    assert float(state["value:objective.augmenter.mean"].abs().max()) > 0
    assert cli("verify-run", tmp_path / "whole", "--step", 8, "--quiet").code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 8:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert distil("stopped", "--set", "keep=0.5", "--set", "pace=5").code == 130
    assert distil("stopped", "--set", "keep=0.5", "--set", "pace=5").code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")


@pytest.mark.slow
def test_texts_cannot_be_transformed(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", small_world / "base", "--teacher", small_world / "other",
        "--objective", "hard", "--steps", 1, "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert answer.code == 2
    assert "reads no images that could be transformed" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
