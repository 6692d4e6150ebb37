"""A tensor that moves in the backward pass moves as it does when all gradients are there first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import compose_world
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.composition import SkillSet, open_skills
from genepool.composition import vectors as vectors_module
from genepool.composition.coefficients import CoefficientLayout, DepthLine, SharedScales, groups_of
from genepool.composition.composers.scalearn import OutputScales, ScaLearnOptions
from genepool.composition.gradient import MergedNetwork
from genepool.composition.steps import CoefficientSteps, FusedSteps, WholeSteps
from genepool.composition.vectors import TaskVectors
from genepool.tasks import open_model
from genepool.tasks.network import Network
from genepool.training import Diverged, Optimisation, fit

LARGE = 1 << 30


@pytest.fixture(scope="module")
def skills(small_bed: Path) -> SkillSet:
    return open_skills(str(small_bed / "base"), [str(small_bed / "full" / name) for name in compose_world.SKILLS])


@pytest.fixture(scope="module")
def network(small_bed: Path) -> Network:
    loaded = open_model(small_bed / "base").load()
    assert isinstance(loaded, Network)
    return loaded


def losses(network: Network, step: int) -> list[Callable[[], torch.Tensor]]:
    """Three micro-batches; the last uses the head alone."""

    def loss(number: int) -> torch.Tensor:
        x = torch.rand(4, 64, generator=torch.Generator().manual_seed(10 * step + number))
        head = network.model.head
        logits: torch.Tensor = head(x[:, : head.in_features]) if number == 2 else network.model(x)
        return (logits.log_softmax(-1)[:, ::3] ** 2).mean()

    return [partial(loss, number) for number in range(3)]


def clamp(learned: Mapping[str, torch.Tensor]) -> None:
    learned["scale"].clamp_(0.28, 0.35)


def steps_of(
    kind: type[CoefficientSteps],
    network: Network,
    vectors: TaskVectors,
    layout: CoefficientLayout,
    settings: Optimisation,
    *,
    softmax: bool = False,
    project: Any = None,
    **more: Any,
) -> Any:
    made = SharedScales(layout, range(len(layout.names)), 0.3, softmax=softmax)
    merged = MergedNetwork(network, vectors, layout, **more)
    if kind is WholeSteps:
        return WholeSteps(merged, made, settings, project)
    own = made.by_tensor()
    assert own is not None
    return FusedSteps(merged, made, own, settings, project)


def run(network: Network, steps: CoefficientSteps, start: int = 0, stop: int | None = None) -> list[float]:
    found: list[float] = []

    def after(step: Any) -> bool:
        found.append(step.loss)
        return bool(step.number == stop)

    fit(steps, lambda number: steps.gradients(number, losses(network, number)), after, start=start)
    return found


@settings(max_examples=4)
@given(
    parts=st.integers(1, 2),
    held=st.sets(st.integers(0, 2)),
    at_hand=st.sampled_from([0, 2000, LARGE]),
    add_up=st.booleans(),
    softmax=st.booleans(),
    bounded=st.booleans(),
    decay=st.sampled_from([0.0, 0.1]),
)
def test_moving_in_the_backward_pass_is_moving_after_it(
    skills: SkillSet,
    network: Network,
    parts: int,
    held: set[int],
    at_hand: int,
    add_up: bool,
    softmax: bool,
    bounded: bool,
    decay: float,
) -> None:
    vectors = skills.vectors(held)
    layout = CoefficientLayout(3, vectors.names, parts, 1)
    optimisation = Optimisation(2, 0.05, shape="cosine", weight_decay=decay, clip=0.0)
    more: dict[str, Any] = {"softmax": softmax, "project": clamp if bounded else None, "add_up": add_up}
    whole = steps_of(WholeSteps, network, vectors, layout, optimisation, **more)
    expected = run(network, whole)
    fused = steps_of(FusedSteps, network, vectors, layout, optimisation, at_hand=at_hand, **more)
    found = run(network, fused)
    assert found == pytest.approx(expected, rel=1e-5)
    for name, tensor in whole.state().items():
        assert torch.allclose(fused.state()[name], tensor, rtol=1e-3, atol=1e-5), name
    # What the network holds is the merge of what was learned, to the bit, and not the sum of the steps.
    after = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    # A fit that goes on from the state begins with it.
    again = steps_of(FusedSteps, network, vectors, layout, optimisation, **more)
    again.restore(fused.state(), 2)
    again.put()
    assert all(torch.equal(after[name], tensor) for name, tensor in network.model.state_dict().items())


def test_what_was_stopped_goes_on_to_the_same_bits(skills: SkillSet, network: Network) -> None:
    vectors = skills.vectors()
    layout = CoefficientLayout(3, vectors.names)
    optimisation = Optimisation(5, 0.05, shape="constant", clip=0.0)
    whole = steps_of(FusedSteps, network, vectors, layout, optimisation)
    expected = run(network, whole)
    first = steps_of(FusedSteps, network, vectors, layout, optimisation)
    found = run(network, first, stop=2)
    second = steps_of(FusedSteps, network, vectors, layout, optimisation)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()}, 2)
    found += run(network, second, start=2)
    assert found == expected
    assert all(torch.equal(second.state()[name], tensor) for name, tensor in whole.state().items())
    with pytest.raises(ValueError, match="expected 32 tensors"):
        second.restore({"value:scale": torch.zeros(3, 2, 1)}, 2)


@pytest.mark.parametrize(("at_hand", "reads"), [(LARGE, 1), (0, 2)])
def test_a_step_reads_each_vector_once_where_its_tensor_fits(
    skills: SkillSet, network: Network, monkeypatch: pytest.MonkeyPatch, at_hand: int, reads: int
) -> None:
    vectors = skills.vectors()
    layout = CoefficientLayout(3, vectors.names)
    steps = steps_of(
        FusedSteps, network, vectors, layout, Optimisation(1, 0.05, clip=0.0), at_hand=at_hand, add_up=True
    )
    steps.put()
    seen: dict[str, int] = {}
    block = TaskVectors.block

    def counting(self: TaskVectors, name: str, start: int, stop: int, out: torch.Tensor | None) -> torch.Tensor:
        seen[name] = seen.get(name, 0) + 1
        return block(self, name, start, stop, out)

    monkeypatch.setattr(TaskVectors, "block", counting)
    steps.gradients(0, losses(network, 0))
    assert set(seen) == set(vectors.names)
    assert set(seen.values()) == {reads}


@pytest.mark.parametrize("kept", [0, LARGE])
def test_blocks_of_all_tensors_are_worked_on_in_the_same_room_and_are_what_they_are_elsewhere(
    skills: SkillSet, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """What is asked for anew at every block, the C library keeps after it was freed."""
    monkeypatch.setattr(vectors_module, "block_rows", lambda rows, _: [(at, at + 1) for at in range(rows)])
    vectors = skills.vectors()
    takes = {name: vectors.base.info(name).numel if kept else vectors.matrix(name)[1] for name in vectors.names}
    rooms = set()
    for name in sorted(vectors.names, key=lambda name: -takes[name]):
        blocks = vectors.blocks(name, kept)
        for _ in range(2):
            for start, stop, block in blocks:
                assert torch.equal(block, vectors.block(name, start, stop))
                rooms.add(block.untyped_storage().data_ptr())
        assert not kept or [id(one[2]) for one in blocks] == [id(one[2]) for one in blocks]
    assert len(rooms) == 1


def test_nothing_moves_after_a_loss_that_is_no_number(skills: SkillSet, network: Network) -> None:
    vectors = skills.vectors()
    layout = CoefficientLayout(3, vectors.names)
    steps = steps_of(FusedSteps, network, vectors, layout, Optimisation(2, 0.05, clip=0.0))
    before = {name: tensor.clone() for name, tensor in steps.trained().items()}

    def bad() -> torch.Tensor:
        return losses(network, 0)[0]() * float("nan")

    with pytest.raises(Diverged, match="the loss of step 1 is not"):
        fit(steps, lambda number: steps.gradients(number, [bad]))
    assert all(torch.equal(before[name], tensor) for name, tensor in steps.trained().items())


def test_a_gradient_that_is_no_number_ends_the_fit(skills: SkillSet, network: Network) -> None:
    vectors = skills.vectors()
    layout = CoefficientLayout(3, vectors.names)
    steps = steps_of(FusedSteps, network, vectors, layout, Optimisation(2, 0.05, clip=0.0))

    def bad() -> torch.Tensor:
        """A root at 0 has a finite value and no slope."""
        logits = network.model(torch.rand(2, 64))
        found: torch.Tensor = (logits - logits.detach()).sum().abs().sqrt()
        return found

    with pytest.raises(Diverged, match="the gradient of step 1 is not"):
        fit(steps, lambda number: steps.gradients(number, [bad]))


def test_only_what_no_other_tensor_shares_is_by_tensor(skills: SkillSet) -> None:
    layout = CoefficientLayout(3, skills.vectors().names, 2)
    for by in ("task", "layer", "role"):
        assert SharedScales(layout, groups_of(skills.memory_base, layout.names, by), 0.3).by_tensor() is None
    assert DepthLine(layout, [0.0] * len(layout.names), 0.1, 0.1).by_tensor() is None
    assert OutputScales(layout, ScaLearnOptions(shared=True, dropout=0), 0).by_tensor() is None
    assert OutputScales(layout, ScaLearnOptions(), 0).by_tensor() is None
    made = OutputScales(layout, ScaLearnOptions(dropout=0), 0)
    own, start = made.by_tensor(), made.start()
    assert own is not None
    alone = [one.coefficients({"omega": start["omega"][:, at : at + 1]}) for at, one in enumerate(own)]
    assert torch.equal(torch.cat(alone, 1), made.coefficients(start))


def test_what_a_backward_pass_still_needs_is_not_moved_in_silence(skills: SkillSet, network: Network) -> None:
    """A weight that is multiplied without a gradient is read after its own gradient is there."""
    vectors = skills.vectors()
    layout = CoefficientLayout(3, vectors.names)
    steps = steps_of(FusedSteps, network, vectors, layout, Optimisation(2, 0.05, clip=0.0))
    weight = network.model.head.weight

    def twice() -> torch.Tensor:
        hidden = network.model.patch_embed.weight.sum() * torch.ones(3, weight.shape[1])
        found: torch.Tensor = (hidden @ weight.detach().T).sum() + network.model(torch.rand(2, 64)).sum()
        return found

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        steps.gradients(0, [twice])
