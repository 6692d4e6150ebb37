"""The core: the gradient of a loss with respect to the coefficients of a merge is exact, whatever they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compose_world
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from genepool.composition import SkillSet, open_skills
from genepool.composition.coefficients import CoefficientLayout, DepthLine, SharedScales, depths_of, groups_of
from genepool.composition.gradient import MergedNetwork
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.tasks.network import Network
from genepool.weights import TensorWeights
from genepool.weights.derived_changes import OfSomeTensors


@pytest.fixture(scope="module")
def skills(small_bed: Path) -> SkillSet:
    return open_skills(str(small_bed / "base"), [str(small_bed / "full" / name) for name in compose_world.SKILLS])


@pytest.fixture(scope="module")
def network(small_bed: Path) -> Network:
    loaded = open_model(small_bed / "base").load(dtype="float64")
    assert isinstance(loaded, Network)
    return loaded


def pixels(seed: int, count: int = 6) -> torch.Tensor:
    return torch.rand(count, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return (logits.log_softmax(-1)[:, ::3] ** 2).mean()


def by_autograd(
    network: Network, vectors: TaskVectors, layout: CoefficientLayout, coefficients: torch.Tensor, x: Any
) -> Any:
    """The same by a merge that autograd follows, with all vectors in memory."""
    merged = {name: parameter.detach() for name, parameter in network.model.named_parameters()}
    for place, name in enumerate(vectors.names):
        rows, columns = vectors.matrix(name)
        base = vectors.base.read(name).double()
        block = vectors.block(name, 0, rows).double().flatten(1)
        scale = coefficients[vectors.holders(name), place]
        parts = layout.part_of(name, 0, rows, columns)
        wide = scale if parts is None else scale[:, parts]
        merged[name] = base + (wide * block).sum(0).view(base.shape)
    return loss_of(functional_call(network.model, merged, (x,)))


@settings(max_examples=15)
@given(
    scales=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    parts=st.integers(1, 3),
    held=st.sets(st.integers(0, 2)),
    seed=st.integers(0, 100),
)
def test_the_gradient_is_that_of_autograd(
    skills: SkillSet, network: Network, scales: list[float], parts: int, held: set[int], seed: int
) -> None:
    vectors = skills.vectors(held)
    layout = CoefficientLayout(3, vectors.names, parts, seed)
    drawn = torch.rand(layout.shape, generator=torch.Generator().manual_seed(seed))
    start = (torch.tensor(scales)[:, None, None] * drawn).float()
    merged = MergedNetwork(network, vectors, layout)
    merged.put(start)
    x = pixels(seed)
    loss, found = merged.gradient([lambda: loss_of(network.model(x))])

    wanted = start.double().requires_grad_(True)
    expected = by_autograd(network, vectors, layout, wanted, x)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert wanted.grad is not None
    assert torch.allclose(found, wanted.grad, rtol=1e-4, atol=1e-6 * float(wanted.grad.abs().max()))


@pytest.mark.parametrize("add_up", [False, True])
def test_micro_batches_add_up_to_the_batch(skills: SkillSet, network: Network, add_up: bool) -> None:
    vectors = skills.vectors()
    layout = CoefficientLayout(3, vectors.names)
    x = pixels(1, 8)
    merged = MergedNetwork(network, vectors, layout, add_up=add_up)
    merged.put(torch.full(layout.shape, 0.2))
    whole, expected = merged.gradient([lambda: loss_of(network.model(x))])
    parts = [lambda part=part: loss_of(network.model(part)) * (len(part) / 8) for part in (x[:3], x[3:])]
    total, found = merged.gradient(parts)
    assert total == pytest.approx(whole)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_no_gradient_stays_in_the_network(skills: SkillSet, network: Network) -> None:
    """Each is dropped as soon as its inner products are taken, so there is never more than one."""
    vectors = skills.vectors({0, 1, 2})
    merged = MergedNetwork(network, vectors, CoefficientLayout(3, vectors.names))
    most = 0
    take = MergedNetwork.inner_products

    def counting(self: MergedNetwork, name: str, gradient: torch.Tensor, blocks: Any) -> torch.Tensor:
        nonlocal most
        most = max(most, sum(parameter.grad is not None for parameter in network.model.parameters()))
        return take(self, name, gradient, blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MergedNetwork, "inner_products", counting)
        merged.gradient([lambda: loss_of(network.model(pixels(2)))])
    assert most == 1
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.model.parameters())


def test_a_tensor_that_only_some_skills_change_counts_for_those_alone(skills: SkillSet, network: Network) -> None:
    base = skills.memory_base
    some = OfSomeTensors(skills.memory_changes[0], ["head.weight"])
    vectors = TaskVectors(base, [some, skills.memory_changes[1]])
    layout = CoefficientLayout(2, vectors.names)
    merged = MergedNetwork(network, vectors, layout)
    merged.put(torch.full(layout.shape, 0.5))
    _, found = merged.gradient([lambda: loss_of(network.model(pixels(3)))])
    moved = [name for name, slope in zip(vectors.names, found[0, :, 0], strict=True) if slope]
    assert moved == ["head.weight"]
    assert bool(found[1].any())


def test_a_network_without_the_tensor_is_refused(skills: SkillSet, network: Network) -> None:
    base = skills.memory_base
    tensors = {name: base.read(name) for name in base.names()} | {"more": torch.zeros(2, 2)}
    larger = TensorWeights(tensors, "larger")

    class More(OfSomeTensors):
        def names(self) -> tuple[str, ...]:
            return ("more",)

        def shape(self, name: str) -> tuple[int, ...]:
            return (2, 2)

    vectors = TaskVectors(larger, [More(skills.memory_changes[0], [])])
    with pytest.raises(InputError, match="more has another name or layout in memory"):
        MergedNetwork(network, vectors, CoefficientLayout(1, vectors.names))


# ---------------------------------------------------------------------- parametrisations


@given(by=st.sampled_from(["task", "layer", "role", "tensor"]), softmax=st.booleans(), seed=st.integers(0, 20))
def test_what_is_shared_gets_the_sum_of_the_slopes(skills: SkillSet, by: Any, softmax: bool, seed: int) -> None:
    names = skills.vectors().names
    layout = CoefficientLayout(3, names)
    groups = groups_of(skills.memory_base, names, by)
    made = SharedScales(layout, groups, 0.3, softmax=softmax)
    learned = {name: value.requires_grad_(True) for name, value in made.start().items()}
    coefficients = made.coefficients(learned)
    assert coefficients.shape == layout.shape
    if softmax:
        assert torch.allclose(coefficients.sum(0), torch.ones(layout.shape[1:]))
        return
    slopes = torch.rand(layout.shape, generator=torch.Generator().manual_seed(seed))
    coefficients.backward(slopes)  # type: ignore[no-untyped-call]
    grad = learned["scale"].grad
    assert grad is not None
    for group in set(groups):
        members = [place for place, one in enumerate(groups) if one == group]
        assert torch.allclose(grad[:, group], slopes[:, members].sum(1), atol=1e-5)


def test_layers_and_roles_are_told_from_names(skills: SkillSet) -> None:
    names = skills.vectors().names
    base = skills.memory_base
    assert len(set(groups_of(base, names, "task"))) == 1
    assert len(set(groups_of(base, names, "tensor"))) == len(names)
    layers = dict(zip(names, groups_of(base, names, "layer"), strict=True))
    assert layers["blocks.0.attn.qkv.weight"] == layers["blocks.0.mlp.fc1.bias"]
    assert layers["blocks.0.attn.qkv.weight"] != layers["blocks.1.attn.qkv.weight"]
    roles = dict(zip(names, groups_of(base, names, "role"), strict=True))
    assert roles["blocks.0.attn.qkv.weight"] == roles["blocks.1.attn.proj.bias"] != roles["blocks.1.mlp.fc1.bias"]


def test_a_line_over_depth_has_its_ends(skills: SkillSet) -> None:
    names = skills.vectors().names
    line = DepthLine(CoefficientLayout(3, names), depths_of(skills.memory_base, names), 0.2, 0.6)
    found = dict(zip(names, line.coefficients(line.start())[0, :, 0].tolist(), strict=True))
    assert found["patch_embed.weight"] == pytest.approx(0.2)
    assert found["blocks.0.mlp.fc1.weight"] == pytest.approx(0.2)
    assert found["blocks.1.mlp.fc1.weight"] == pytest.approx(0.8)
    assert found["head.weight"] == pytest.approx(0.8)


@given(parts=st.integers(2, 9), start=st.integers(0, 9), rows=st.integers(1, 5), columns=st.integers(1, 7))
def test_the_part_of_an_entry_depends_on_its_place_alone(parts: int, start: int, rows: int, columns: int) -> None:
    layout = CoefficientLayout(2, ("w",), parts, 3)
    whole, some = layout.part_of("w", 0, 20, columns), layout.part_of("w", start, start + rows, columns)
    assert whole is not None
    assert some is not None
    assert torch.equal(some, whole[start * columns : (start + rows) * columns])
    assert int(whole.min()) >= 0
    assert int(whole.max()) < parts


def test_rows_as_parts_get_the_inner_products_of_their_rows(skills: SkillSet, network: Network) -> None:
    vectors = skills.vectors({0, 1})
    rows = max(vectors.matrix(name)[0] for name in vectors.names)
    merged = MergedNetwork(network, vectors, CoefficientLayout(3, vectors.names, rows, by_rows=True))
    gradient = torch.rand(vectors.base.info("head.weight").shape, dtype=torch.float64)
    found = merged.inner_products("head.weight", gradient, vectors.blocks("head.weight"))
    block = vectors.block("head.weight", 0, len(gradient)).double()
    assert torch.allclose(found[:, : len(gradient)], (block * gradient).sum(2))
    assert not bool(found[:, len(gradient) :].any())


@settings(max_examples=8)
@given(start=st.integers(0, 6), held=st.sets(st.integers(0, 2)))
def test_blocks_are_the_rows_of_every_skill_and_read_the_base_once(
    skills: SkillSet, start: int, held: set[int]
) -> None:
    vectors, name, reads = skills.vectors(held), "head.weight", 0
    expected = [change.rows(name, start, 9) for change in skills.memory_changes]
    read = vectors.base.read_rows

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal reads
        reads += 1
        return read(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors.base, "read_rows", counted)
        found = vectors.block(name, start, 9)
    assert torch.equal(found, torch.stack(expected))
    assert reads == (0 if len(held) == 3 else 1)
