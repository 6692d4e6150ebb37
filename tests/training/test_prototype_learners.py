"""PRD and few-shot class-incremental learning: their losses by hand, and classifiers that learn class after class."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import write_classifier
from training_runs import told

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch
from genepool.training.continual.features import FeatureHead, equal_angles, supervised_contrast
from genepool.training.continual.memory import Memory, read_memory
from genepool.training.continual.pictures import images_of, second_view, turned
from genepool.training.learners import find_learner
from genepool.training.learners.few_shot import _still_part

SHORT = ("--steps", 6, "--every", 3, "--batch", 8, "--learning-rate", 0.02, "--test", 6, "--quiet", "--lora", 2)


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0.05, 2))
def test_the_contrast_is_the_formula(seed: int, count: int, heat: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    classes = torch.randint(0, 3, (count,), generator=generator)
    found = supervised_contrast(points, classes, heat).tolist()
    for at in range(count):
        others = [one for one in range(count) if one != at]
        same = [one for one in others if classes[one] == classes[at]]
        scores = {one: math.exp(float(points[at] @ points[one]) / heat) for one in others}
        wanted = -sum(math.log(scores[one] / sum(scores.values())) for one in same) / len(same) if same else 0.0
        assert found[at] == pytest.approx(wanted, abs=1e-8)


def test_the_contrast_has_gradients_where_an_example_is_alone() -> None:
    for count in (1, 2):
        points = torch.eye(2)[:count].clone().requires_grad_()
        supervised_contrast(points, torch.arange(count), 0.1).sum().backward()
        assert points.grad is not None
        assert points.grad.tolist() == [[0, 0]] * count


def prd(**options: Any) -> Any:
    learner: Any = find_learner("prd", options)
    learner._old = [[0, 1], [2]]
    learner._begun = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    learner._prototypes = torch.nn.Parameter(torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    return learner


def softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def divergence(was: list[float], now: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(was), softmax(now), strict=True))


def test_relations_are_kept_as_the_paper_and_as_the_code_say() -> None:
    before, after = torch.tensor([[1.0, 0.0], [0.5, 2.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    root = math.sqrt(0.5)
    old = [[1, 0], [0, 1], [root, root]]
    new = [[root, root], [0, 1], [1, 0]]

    def scores(points: torch.Tensor, prototypes: list[Any]) -> list[list[float]]:
        return [
            [sum(p * q for p, q in zip(one, point, strict=True)) for one in prototypes] for point in points.tolist()
        ]

    was, now = scores(before, old), scores(after, new)
    # The paper: each prototype ranks the examples; the mean over the prototypes.
    columns = [divergence([row[at] for row in was], [row[at] for row in now]) for at in range(3)]
    found = prd()._relations(before, after)
    assert float(found.mean().detach()) == pytest.approx(sum(columns) / 3, rel=1e-5)
    # The code: each example ranks the prototypes of a task; the sum over the tasks. One class alone says nothing.
    rows = [divergence(one[:2], other[:2]) for one, other in zip(was, now, strict=True)]
    assert prd(relation="classes")._relations(before, after).tolist() == pytest.approx(rows, rel=1e-5)
    found.mean().backward()


def test_prototypes_move_by_plain_descent() -> None:
    learner = prd(rate=0.5)
    learner._prototypes.grad = torch.ones(4, 2)
    with torch.no_grad():
        learner.after_step()
    assert learner._prototypes.tolist()[0] == [0.5, 0.5]
    assert learner._prototypes.grad is None
    again = prd()
    again.restore(learner.state())
    assert torch.equal(again._prototypes, learner._prototypes)


def test_a_head_by_cosines_answers_the_nearest_prototype_and_no_class_that_was_not_learned() -> None:
    layer = torch.nn.Linear(2, 3)
    head = FeatureHead(layer, "w", "b", ("a", "b", "c"))
    values = {"w": layer.weight.detach(), "b": layer.bias.detach(), "other": torch.ones(1)}
    found = head.by_cosine(values, torch.tensor([[5.0, 0.0], [0.3, 0.3], [0.0, 9.0]]), [0, 1])
    assert found["w"].tolist() == [[1, 0], pytest.approx([0.5**0.5] * 2), [0, 0]]
    points = torch.tensor([[3.0, 0.5], [1.0, 0.9], [-4.0, -4.0]])
    # Far from both, the third class is still none that was learned.
    assert torch.nn.functional.linear(points, found["w"], found["b"]).argmax(1).tolist() == [0, 1, 0]
    assert found["other"] is values["other"]
    assert values["b"].tolist() == layer.bias.tolist()


@given(st.integers(2, 12), st.integers(0, 5))
def test_directions_at_equal_angles_are_a_simplex(count: int, more: int) -> None:
    points = equal_angles(count, count + more, "here")
    cosines = points @ points.T
    wanted = torch.full((count, count), -1 / (count - 1)).fill_diagonal_(1)
    assert torch.allclose(cosines, wanted, atol=1e-5)
    with pytest.raises(InputError, match="do not fit"):
        equal_angles(count, count - 1, "here")


def test_the_part_that_moves_are_the_smallest_values() -> None:
    values = torch.tensor([[-0.1, 3.0], [2.0, 0.2]])
    assert _still_part(values, 0.5).tolist() == [[False, True], [True, False]]
    assert _still_part(values, 0).all()
    assert not _still_part(values, 1).any()


def batch_of(name: str, pixels: torch.Tensor) -> AnswerBatch:
    rows = torch.arange(len(pixels))
    return AnswerBatch({name: pixels}, rows.tolist(), rows, rows, rows * 0, rows, [])


def test_images_are_turned_whatever_they_are_called() -> None:
    image = torch.arange(4.0).view(1, 2, 2)
    wanted = torch.tensor([[[1.0, 3.0], [0.0, 2.0]]])
    assert torch.equal(images_of(turned(batch_of("pixel_values", image[None]), 1, "x"), "x")[0], wanted)
    flat = turned(batch_of("pixels", image.view(1, 4)), 1, "x")
    assert flat.inputs["pixels"].tolist() == [[1, 3, 0, 2]]
    assert turned(flat, 0, "x") is flat
    with pytest.raises(InputError, match="2 x 3 cannot be turned"):
        turned(batch_of("pixel_values", torch.zeros(1, 1, 2, 3)), 1, "x")
    with pytest.raises(InputError, match="the tasks have none"):
        turned(batch_of("input_ids", torch.zeros(1, 4)), 1, "x")
    with pytest.raises(InputError, match="the tasks have none"):
        second_view(batch_of("input_ids", torch.zeros(1, 4)), torch.Generator(), "x")


def test_a_second_view_is_the_image_moved_by_a_pixel_with_a_little_noise() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    found = set()
    for seed in range(60):
        view = second_view(batch_of("pixel_values", image), torch.Generator().manual_seed(seed), "x")
        found.add(divmod(int(images_of(view, "x").argmax()), 5))
    assert found == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


@pytest.fixture
def learn(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """A text classifier learns the letters of `first`, then the digits of `grade`."""
    base = write_classifier(tmp_path / "base", labels=tuple("abcdefgh01234567"))

    def call(out: str, learner: str, *options: Any) -> Any:
        named = [small_world / "tasks" / name for name in ("first", "grade")]
        return cli("train", *named, "--learner", learner, "--base", base, "--out", tmp_path / out, *SHORT, *options)

    return call


def head_of(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = load_file(folder / "adapter_model.safetensors")
    parts = []
    for leaf in ("weight", "bias"):
        (one,) = [tensor for name, tensor in tensors.items() if name.endswith(f"classifier.{leaf}")]
        parts.append(one)
    return parts[0], parts[1]


@pytest.mark.slow
@pytest.mark.parametrize("relation", ["samples", "classes"])
def test_prd_writes_its_prototypes_into_the_head(learn: Callable[..., Any], tmp_path: Path, relation: str) -> None:
    options = ("--set", "hidden=6", "--set", "size=4", "--set", f"relation={relation}")
    answer = learn("run", "prd", *options)
    assert answer.code == 0, answer.err
    run = tmp_path / "run"
    first, last = (read_memory(run / "tasks" / number) for number in ("0001", "0002"))
    assert first.facts["classes"] == [list(range(8))]
    assert last.facts["classes"] == [list(range(8)), list(range(8, 16))]
    weight, bias = head_of(run / "tasks" / "0001" / "adapter")
    assert torch.allclose(weight[:8], torch.nn.functional.normalize(first.tensors["prototypes"][:8], dim=1), atol=1e-6)
    assert weight[8:].abs().max() == 0
    assert bias.tolist() == [0] * 8 + [-1e4] * 8
    assert head_of(run / "adapter")[1].tolist() == [0] * 16
    # Old prototypes follow the features.
    assert not torch.equal(first.tensors["prototypes"][:8], last.tensors["prototypes"][:8])
    # No class of the second task is answered after the first alone.
    assert told(run)["matrix"][0][1] == 0


def test_without_distillation_old_prototypes_of_prd_stay(learn: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--set", "hidden=6", "--set", "size=4", "--set", "distillation=0", "--set", "temperature=0.2")
    assert learn("run", "prd", *options, "--set", "prototypes=1", "--set", "rate=0.05").code == 0
    first, last = (
        read_memory(tmp_path / "run" / "tasks" / number).tensors["prototypes"] for number in ("0001", "0002")
    )
    assert torch.equal(first[:8], last[:8])
    assert not torch.equal(first[8:], last[8:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "trick", ["scale=8", "contrast=0.5", "assigned=true", "subnet=0.5", "assigned=true,subnet=0.3"]
)
def test_a_trick_alone_through_the_command(learn: Callable[..., Any], tmp_path: Path, trick: str) -> None:
    options = [part for one in trick.split(",") for part in ("--set", one)]
    answer = learn("run", "few_shot", *options)
    assert answer.code == 0, answer.err
    run = tmp_path / "run"
    first, last = (read_memory(run / "tasks" / number) for number in ("0001", "0002"))
    # A class that was learned keeps its prototype.
    assert torch.equal(first.tensors["prototypes"][:8], last.tensors["prototypes"][:8])
    file = "adapter/adapter_model.safetensors"
    one, other = (load_file(run / "tasks" / number / file) for number in ("0001", "0002"))
    moved = {name: (tensor != other[name]).float().mean().item() for name, tensor in one.items() if "lora_" in name}
    if "subnet" in trick:
        # Rounding makes the part of a small tensor a little more or less.
        assert max(moved.values()) <= 0.6
        assert max(moved.values()) > 0
    else:
        assert max(moved.values()) == 0
    if "assigned" in trick:
        points = torch.nn.functional.normalize(first.tensors["prototypes"][:8], dim=1)
        cosines = points @ points.T
        assert torch.allclose(cosines[0, 1:], torch.full((7,), -1 / 15), atol=1e-5)
        assigned = dict(map(tuple, last.facts["assigned"]))
        assert len(set(assigned.values())) == len(assigned) == (16 if "subnet" in trick else 8)
    else:
        assert last.facts["assigned"] == []


@pytest.mark.parametrize("trick", ["pseudo=1", "rotation=1", "pretraining=0.5"])
def test_tricks_of_images_are_refused_for_texts(learn: Callable[..., Any], tmp_path: Path, trick: str) -> None:
    answer = learn("run", "few_shot", "--set", trick)
    name, value = trick.split("=")
    assert answer.code == 2
    assert answer.err.startswith(f"error: --set {name}: got {value}, and it is for images")
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["prd", "few_shot"])
def test_a_model_that_writes_is_refused(cli: Callable[..., Any], small_world: Path, tmp_path: Path, name: str) -> None:
    named = [small_world / "tasks" / one for one in ("first", "grade")]
    answer = cli("train", *named, "--learner", name, "--base", small_world / "base", "--out", tmp_path / "run", *SHORT)
    assert answer.code == 2
    assert "needs a model that tells classes" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """base/, an untrained transformer of digits, and the tasks 012 (many images), 3 and 4 (three each)."""
    from genepool.tasks.models.digits.network import Shape
    from genepool.testbed.digits.images import Images, load_images, write_items
    from genepool.testbed.digits.model import new_base
    from genepool.testbed.digits.rearranging import AS_IT_IS

    model = new_base(Shape(24, 1, 2, 24), 0)
    (tmp_path / "base").mkdir()
    save_file(model.state_dict(), tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "base" / "config.json").write_text(json.dumps(model.shape.config()))
    for name in ("012", "3", "4"):
        folder = tmp_path / "tasks" / name
        folder.mkdir(parents=True)
        for split, images in load_images().items():
            chosen = [at for at, digit in enumerate(images.digits) if str(digit) in name]
            chosen = chosen[: 3 if len(name) == 1 and split == "train" else 40]
            some = Images(tuple(images.pixels[at] for at in chosen), tuple(images.digits[at] for at in chosen))
            write_items(folder / f"{split}.jsonl", AS_IT_IS, split, some)
        (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "tricks",
    ["scale=16", "pseudo=1", "rotation=0.5", "pretraining=0.5", "pseudo=1,assigned=true,rotation=1,contrast=1"],
)
def test_tricks_of_images_on_digits(cli: Callable[..., Any], digits: Path, tricks: str) -> None:
    named = [digits / "tasks" / name for name in ("012", "3", "4")]
    options = [part for one in tricks.split(",") for part in ("--set", one)]
    answer = cli(
        "train", *named, "--learner", "few_shot", *options, "--base", digits / "base", "--out", digits / "run",
        "--full", "--steps", 60, "--every", 60, "--batch", 16, "--learning-rate", 0.004, "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    said = told(digits / "run")
    # Three classes are told apart, and a digit of which three images were shown is found at all.
    assert said["matrix"][0][0] > 0.7
    assert said["matrix"][2][1] > 0.1
    assert said["matrix"][0][1] == 0
    facts = read_memory(digits / "run" / "tasks" / "0003").facts
    assert facts["classes"] == [0, 1, 2, 3, 4]


def test_a_head_that_is_not_trained_is_named() -> None:
    model = SimpleNamespace(labels=("a", "b"), model=torch.nn.Sequential(torch.nn.Linear(3, 2)), title="tiny")
    place: Any = SimpleNamespace(model=model, parameters={})
    with pytest.raises(InputError, match="no linear layer with a score for each class"):
        FeatureHead.of(place, "prd")
    weight, bias = model.model[0].weight, model.model[0].bias
    place.parameters = {"0.weight": weight, "0.bias": bias}
    found = FeatureHead.of(place, "prd")
    assert (found.weight, found.bias, found.width) == ("0.weight", "0.bias", 3)
    assert Memory().bytes == 0
