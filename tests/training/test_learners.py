"""Learners held to their definitions: formulas by hand on tiny tensors, projections as properties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_translator

from genepool.tasks import Example, Task, open_model
from genepool.tasks.answers import Question
from genepool.training.continual.kept_examples import draw_kept, keep_examples
from genepool.training.continual.memory import KeptExample, Memory, read_memory, write_memory
from genepool.training.continual.neighbours import neighbour_accuracy
from genepool.training.continual.spaces import ProjectedLayer, extended_basis, input_covariances
from genepool.training.examples import TrainingExample
from genepool.training.learners import TaskLearner, find_learner, learners


def lessons(task: str, count: int) -> list[TrainingExample]:
    where = Task(task, {})
    return [TrainingExample(where, Example(f"{task}-{at}", f"{task} {at:03d}", ("a",))) for at in range(count)]


def placed(learner: TaskLearner, memory: Memory, parameters: dict[str, torch.Tensor], **more: Any) -> Any:
    """A learner in front of plain tensors, as the second task of a run."""
    made = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in parameters.items()}
    model = SimpleNamespace(device=torch.device("cpu"), model=torch.nn.Module())
    values = {name: parameter.detach() for name, parameter in made.items()}
    place: Any = SimpleNamespace(number=1, seed=0, model=model, parameters=made, values=values, **more)
    learner.memory, learner.place = memory, place
    return learner


def test_every_learner_says_what_it_is_and_has_options_with_defaults() -> None:
    for name, kind in learners().items():
        assert kind.source
        assert kind.when
        assert kind.name == name
        assert kind().options == find_learner(name).options


def test_the_penalty_of_ewc_is_the_weighted_square_of_what_moved() -> None:
    kept = Memory({"fisher:w": torch.tensor([1.0, 2.0]), "anchor:w": torch.tensor([0.0, 1.0])})
    ewc = placed(find_learner("ewc", {"weight": 10}), kept, {"w": torch.tensor([3.0, 2.0])})
    ewc.begin_task()
    penalty = ewc.penalty(0)
    assert penalty is not None
    # 10 (1 * 3^2 + 2 * 1^2)
    assert float(penalty.detach()) == pytest.approx(110)
    penalty.backward()
    assert ewc.place.parameters["w"].grad.tolist() == [60, 40]


def test_nothing_holds_the_first_task() -> None:
    for name in ("ewc", "o_lora"):
        learner = placed(find_learner(name), Memory(), {"a.lora_A.w": torch.ones(2, 3)})
        learner.begin_task()
        assert learner.penalty(0) is None


def test_the_fisher_information_is_the_mean_of_squared_gradients_and_runs_on() -> None:
    gradients = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0])]
    before = Memory({"fisher:w": torch.tensor([4.0, 4.0]), "anchor:w": torch.zeros(2)})
    ewc = placed(
        find_learner("ewc", {"decay": 0.5}), before, {"w": torch.tensor([5.0, 6.0])}, lessons=[None, None],
        likelihood_gradients=lambda _: ({"w": one} for one in gradients),
    )  # fmt: skip
    ewc.begin_task()
    kept = ewc.end_task()
    assert kept.tensors["fisher:w"].tolist() == [5 + 2, 2 + 2]
    assert kept.tensors["anchor:w"].tolist() == [5, 6]
    assert kept.bytes == 4 * 4


def test_the_penalty_of_o_lora_is_the_overlap_of_its_inputs() -> None:
    old, new = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([[2.0, -3.0, 7.0]])
    learner = placed(find_learner("o_lora"), Memory({"m.lora_A.w": old}), {"m.lora_A.w": new, "m.lora_B.w": new.T})
    learner.begin_task()
    assert float(learner.penalty(0).detach()) == pytest.approx(0.5 * (2 + 3))
    kept = learner.end_task().tensors
    assert kept.keys() == {"m.lora_A.w"}
    assert kept["m.lora_A.w"].tolist() == [*old.tolist(), *new.tolist()]


@given(st.integers(0, 10**6), st.floats(0.05, 1), st.integers(0, 4))
def test_a_basis_holds_its_share_and_no_direction_more(seed: int, energy: float, known: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    covariance = inputs.T @ inputs
    start = torch.linalg.qr(torch.randn(6, known, generator=generator, dtype=torch.float64))[0] if known else None
    basis = extended_basis(start, covariance, energy)
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), atol=1e-9)
    held = (inputs @ basis).square().sum() / inputs.square().sum()
    assert held >= energy - 1e-9
    if start is not None:
        assert torch.allclose(basis @ (basis.T @ start), start, atol=1e-9)
    if basis.shape[1] > known:
        fewer = extended_basis(start, covariance, 1e-12)[:, :known]
        less = basis[:, : basis.shape[1] - 1]
        assert (inputs @ less).square().sum() / inputs.square().sum() < energy + 1e-9
        assert fewer.shape[1] == known


@pytest.mark.parametrize("inputs_first", [False, True])
def test_what_gpm_leaves_of_a_gradient_and_of_a_step_does_not_act_on_earlier_inputs(inputs_first: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(5, 2, generator=generator))[0]
    shape = (5, 4) if inputs_first else (4, 5)
    weight = torch.randn(shape, generator=generator)
    gpm = placed(find_learner("gpm"), Memory({"w": basis}), {"w": weight, "bias": torch.ones(4)})
    gpm._layers, gpm._bases, gpm._before = {"w": ProjectedLayer(None, inputs_first)}, {"w": basis}, {}
    for parameter in gpm.place.parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    gpm.after_backward()
    old = basis @ torch.randn(2, 3, generator=generator)

    def acting(matrix: torch.Tensor) -> torch.Tensor:
        return (matrix.T if inputs_first else matrix) @ old

    assert acting(gpm.place.parameters["w"].grad).abs().max() < 1e-5
    assert gpm.place.parameters["w"].grad.abs().max() > 0.1
    assert gpm.place.parameters["bias"].grad.tolist() == [0, 0, 0, 0]
    # As AdamW moves: in directions of its own.
    with torch.no_grad():
        for values in gpm.place.values.values():
            values += torch.randn(values.shape, generator=generator)
        gpm.after_step()
    assert acting(gpm.place.values["w"] - weight).abs().max() < 1e-5
    assert (gpm.place.values["w"] - weight).abs().max() > 0.1
    assert gpm.place.values["bias"].tolist() == [1, 1, 1, 1]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 2000))
def test_kept_examples_stay_within_the_budget_and_tasks_have_equal_parts(first: int, second: int, budget: int) -> None:
    kept: tuple[KeptExample, ...] = ()
    for name, count in (("one", first), ("two", second)):
        kept = keep_examples(Memory(examples=kept), lessons(name, count), seed=3, most=40, budget=budget)
    assert sum(one.bytes for one in kept) <= budget
    for name, count in (("one", first), ("two", second)):
        own = [one for one in kept if one.task == name]
        # "one 000" and "a": 8 bytes.
        assert len(own) == min(count, 40, budget // 2 // 8)
    assert len(set(kept)) == len(kept)


def test_drawn_examples_are_those_that_are_kept_and_belong_to_the_step() -> None:
    known = lessons("one", 30)
    kept = Memory(examples=keep_examples(Memory(), known, seed=1, most=5))
    earlier = {("one", one.example.key): one for one in known}
    drawn = [draw_kept(kept, earlier, 5, seed=1, purpose="replay", step=step) for step in (0, 0, 1)]
    assert {one.example.key for one in drawn[0]} == {one.key for one in kept.examples}
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(draw_kept(kept, earlier, 12, seed=1, purpose="replay", step=0)) == 12


def test_a_step_of_replay_has_its_share_of_kept_examples() -> None:
    known, own = lessons("one", 20), lessons("two", 8)
    kept = Memory(examples=keep_examples(Memory(), known, seed=1, most=9))
    replay = placed(
        find_learner("replay", {"share": 0.25}), kept, {}, earlier={("one", one.example.key): one for one in known}
    )
    found = list(replay.lessons(4, own))
    assert found[:6] == own[:6]
    assert [one.task.name for one in found[6:]] == ["one", "one"]


@pytest.mark.parametrize(("share", "kept_ones"), [(0.01, 1), (0.99, 2)])
def test_a_small_step_of_replay_still_has_examples_of_both_kinds(share: float, kept_ones: int) -> None:
    known, own = lessons("one", 20), lessons("two", 3)
    kept = Memory(examples=keep_examples(Memory(), known, seed=1, most=9))
    earlier = {("one", one.example.key): one for one in known}
    replay = placed(find_learner("replay", {"share": share}), kept, {}, earlier=earlier)
    assert [one.task.name for one in replay.lessons(0, own)].count("one") == kept_ones
    # A step of a single example has no room for another.
    assert replay.lessons(0, own[:1]) == own[:1]


def test_a_memory_is_read_as_it_was_written(tmp_path: Any) -> None:
    memory = Memory({"w": torch.ones(2, 3)}, (KeptExample("one", "k", 9),), {"said": [1, 2]})
    assert memory.bytes == 24 + 9
    write_memory(tmp_path, memory)
    found = read_memory(tmp_path)
    assert found.examples == memory.examples
    assert found.facts == memory.facts
    assert found.tensors["w"].tolist() == memory.tensors["w"].tolist()
    write_memory(tmp_path, Memory())
    assert read_memory(tmp_path) == Memory()
    assert math.isclose(Memory().bytes, 0)


def test_the_slow_weights_are_the_sum_that_the_formula_says_and_go_on_in_the_next_task() -> None:
    learner = placed(find_learner("momentum", {"decay": 0.5}), Memory(), {"w": torch.tensor([8.0])})
    learner.begin_task()
    for fast in (0.0, 4.0):
        learner.place.values["w"].fill_(fast)
        learner.after_step()
    # 8 -> 4 -> 4
    assert learner.deployed()["w"].tolist() == [4]
    learner.place.values["w"].fill_(6.0)
    learner.after_step()
    assert learner.deployed()["w"].tolist() == [5]
    later = placed(find_learner("momentum", {"decay": 0.5}), learner.end_task(), {"w": torch.tensor([6.0])})
    later.begin_task()
    assert later.deployed()["w"].tolist() == [5]
    assert later.place.values["w"].tolist() == [6]


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 8))
def test_the_buffer_of_der_is_a_reservoir_whatever_was_resumed(size: int, batch: int, steps: int) -> None:
    known = lessons("two", 200)

    def made() -> Any:
        one = placed(find_learner("der_pp", {"size": size}), Memory(), {}, lessons=known, earlier={})
        one.begin_task()
        return one

    whole, parts = made(), made()
    for step in range(steps):
        for learner in (whole, parts):
            drawn = known[step * batch : (step + 1) * batch]
            learner.lessons(step, drawn)
            learner._logits = {id(one): torch.tensor([[float(at)]]) for at, one in enumerate(drawn)}
            learner.after_step()
        state, parts = parts.state(), made()
        parts.restore(state)
    kept = whole.end_task()
    assert len(kept.examples) == min(size, steps * batch)
    assert len(set(kept.examples)) == len(kept.examples)
    assert kept.facts == {"seen": steps * batch}
    assert kept.examples == parts.end_task().examples
    if steps * batch <= size:
        assert [one.key for one in kept.examples] == [one.example.key for one in known[: steps * batch]]


def test_neighbours_vote_without_the_example_itself() -> None:
    points = torch.tensor([[0.0], [1.0], [1.5], [10.0], [11.0], [1.2]])
    classes = np.array([0, 0, 0, 1, 1, 1])
    # Alone: 0 -> 1 (0), 1 -> 1.2 (1), 1.5 -> 1.2 (1), 10 -> 11, 11 -> 10, 1.2 -> 1 (0).
    assert neighbour_accuracy(points, classes, 1) == pytest.approx(3 / 6)
    # Three: 1.2 alone has none of its own; 10 and 11 have each other and 1.2.
    assert neighbour_accuracy(points, classes, 3) == pytest.approx(5 / 6)
    assert neighbour_accuracy(points[:1], classes[:1], 3) == 0


def test_inputs_of_an_encoder_decoder_are_those_of_each_example_alone_without_padding(tmp_path: Path) -> None:
    """A prompt as long as the answer: the encoder's mask once told which places of the decoder count."""
    network: Any = open_model(write_translator(tmp_path / "model")).load()

    def encode(lessons: Sequence[tuple[str, str]]) -> list[Any]:
        asked = [Question(prompt, prompt, answer) for prompt, answer in lessons]
        return [(batch, list(batch.numbers)) for batch in network.answer_batches(asked)]

    layers = {
        name: ProjectedLayer(module, inputs_first=False)
        for name, module in network.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "decoder" in name
    }
    place: Any = SimpleNamespace(model=network, encode=encode)
    lessons: list[Any] = [("abcdef", "abcde"), ("ab", "b")]
    together = input_covariances(place, layers, lessons)
    alone = [input_covariances(place, layers, [one]) for one in lessons]
    read: list[torch.Tensor] = []
    name = next(one for one in layers if one.endswith("SelfAttention.q"))
    with layers[name].module.register_forward_pre_hook(lambda _, given: read.append(given[0][0])), torch.no_grad():
        for lesson in lessons:
            network.answer_logits(encode([lesson])[0][0])
    lengths = [int(encode([one])[0][0].places.max()) + 1 for one in lessons]
    rows = torch.cat([one[:length] for one, length in zip(read, lengths, strict=True)]).double()
    for one, found in together.items():
        assert torch.allclose(found, alone[0][one] + alone[1][one], atol=1e-5)
    assert torch.allclose(together[name], rows.T @ rows, atol=1e-5)
