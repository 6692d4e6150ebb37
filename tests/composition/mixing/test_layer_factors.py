"""The arithmetic of mixed batches: every way gives what added weights give, with gradients, for any ranks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.composition.mixing.layer_factors import LayerFactors, Way
from genepool.composition.mixing.mixtures import ByLayer, ChosenSkills, Shares

INPUTS, OUTPUTS = 5, 4
WAYS: tuple[Way, ...] = ("gathered", "side_by_side", "sliced")


class Case(NamedTuple):
    """A layer, its skills and a batch."""

    weight: torch.Tensor
    changes: list[torch.Tensor]
    shifts: list[torch.Tensor | None]
    layer: LayerFactors
    x: torch.Tensor
    output: torch.Tensor


def case(seed: int, ranks: list[int], lines: int, tokens: int, *, biases: bool) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight = drawn(OUTPUTS, INPUTS)
    pairs = [(drawn(rank, INPUTS), drawn(rank, OUTPUTS)) if rank else None for rank in ranks]
    shifts = [drawn(OUTPUTS) if biases and number % 2 == 0 else None for number in range(len(ranks))]
    layer = LayerFactors(pairs, shifts, inputs=INPUTS, outputs=OUTPUTS, like=weight)
    changes = [torch.zeros_like(weight) if pair is None else pair[1].T @ pair[0] for pair in pairs]
    x = drawn(lines, tokens, INPUTS)
    return Case(weight, changes, shifts, layer, x, x @ weight.T)


def expected(one: Case, weights: torch.Tensor) -> torch.Tensor:
    """Token by token, by a weight of its own."""
    weights = (weights if weights.dim() == 3 else weights.unsqueeze(1)).expand(*one.x.shape[:2], -1)
    found = torch.zeros_like(one.output)
    for line, token in torch.cartesian_prod(torch.arange(len(one.x)), torch.arange(one.x.shape[1])).tolist():
        shares = weights[line, token]
        summed = one.weight + sum(share * change for share, change in zip(shares, one.changes, strict=True))
        shift = sum(share * s for share, s in zip(shares, one.shifts, strict=True) if s is not None)
        found[line, token] = summed @ one.x[line, token] + shift
    return found


shapes = {
    "seed": st.integers(0, 999),
    "ranks": st.lists(st.integers(0, 3), min_size=1, max_size=4),
    "lines": st.integers(1, 5),
    "tokens": st.integers(1, 3),
    "biases": st.booleans(),
}


@given(**shapes)
def test_each_way_gives_what_the_added_weights_give(
    seed: int, ranks: list[int], lines: int, tokens: int, biases: bool
) -> None:
    one = case(seed, ranks, lines, tokens, biases=biases)
    skills = torch.randint(-1, len(ranks), (lines,), generator=torch.Generator().manual_seed(seed))
    weights = torch.nn.functional.one_hot(skills + 1, len(ranks) + 1)[:, 1:].double()
    for way in WAYS:
        with torch.inference_mode():
            found = ChosenSkills(skills, len(ranks), way).added("layer", one.layer, one.x, one.output.clone())
        torch.testing.assert_close(found, expected(one, weights), msg=way)
        # A line of the base alone keeps its bits.
        assert torch.equal(found[skills < 0], one.output[skills < 0]), way


@given(**shapes, by_token=st.booleans())
def test_shares_give_what_the_added_weights_give_and_so_do_their_gradients(
    seed: int, ranks: list[int], lines: int, tokens: int, biases: bool, by_token: bool
) -> None:
    one = case(seed, ranks, lines, tokens, biases=biases)
    shape = (lines, tokens, len(ranks)) if by_token else (lines, len(ranks))
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    slopes = []
    for how in ("shares", "router", "definition"):
        weights = drawn.clone().requires_grad_()
        if how == "definition":
            found = expected(one, weights)
        else:
            mixture = Shares(weights) if how == "shares" else ByLayer(lambda *_, given=weights: given)
            found = mixture.added("layer", one.layer, one.x, one.output)
        torch.testing.assert_close(found, expected(one, drawn))
        if found.requires_grad:
            torch.autograd.backward(found.square().sum())
        slopes.append(weights.grad if weights.grad is not None else torch.zeros_like(weights))
    torch.testing.assert_close(slopes[0], slopes[2])
    torch.testing.assert_close(slopes[1], slopes[2])


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_written_into_what_a_gradient_needs(way: Way) -> None:
    one = case(3, [2, 1], 3, 2, biases=True)
    x = one.x.clone().requires_grad_()
    output = x @ one.weight.T
    found = ChosenSkills(torch.tensor([1, -1, 0]), 2, way).added("layer", one.layer, x, output)
    torch.autograd.backward(found.square().sum())
    again = one.x.clone().requires_grad_()
    wanted = expected(one._replace(x=again), torch.tensor([[0.0, 1], [0, 0], [1, 0]]).double())
    torch.autograd.backward(wanted.square().sum())
    torch.testing.assert_close(x.grad, again.grad)


def test_by_hand() -> None:
    """One skill that doubles the first input, one that adds the second to both outputs."""
    pairs = [(torch.tensor([[1.0, 0]]), torch.tensor([[2.0, 0]])), (torch.tensor([[0.0, 1]]), torch.tensor([[1.0, 1]]))]
    layer = LayerFactors(pairs, [None, None], inputs=2, outputs=2, like=torch.zeros(1))
    x = torch.tensor([[[3.0, 5.0]]]).expand(3, 1, 2)
    found = ChosenSkills(torch.tensor([0, 1, -1]), 2).added("layer", layer, x, torch.zeros(3, 1, 2))
    assert found[:, 0].tolist() == [[6, 0], [5, 5], [0, 0]]
    mixed = Shares(torch.tensor([[0.5, 2.0]])).added("layer", layer, x[:1], torch.zeros(1, 1, 2))
    assert mixed[0, 0].tolist() == [13, 10]


def test_the_way_goes_with_the_batch() -> None:
    pairs = [(torch.zeros(8, 512), torch.zeros(8, 512)) for _ in range(16)]
    layer = LayerFactors(pairs, [None] * 16, inputs=512, outputs=512, like=torch.zeros(1))
    assert layer.cheapest(16, 1, 16, together=False) == "gathered"
    assert layer.cheapest(16, 32, 1, together=True) == "sliced"
    # Many lines of one skill would each read factors of their own.
    assert layer.cheapest(512, 1, 2, together=True) == "sliced"


@pytest.mark.parametrize(
    ("ranks", "skills", "copied"),
    [
        ([2, 2, 2, 2], [1, 2, 3], False),
        ([2, 2, 2, 2], [3], False),
        ([1, 2, 2, 1], [1, 2], False),
        ([2, 2, 2, 2], [2, 1], True),
        ([2, 2, 2, 2], [1, 1], True),
        ([2, 2, 2, 2], [-1, 0], True),
        ([2, 2, 2, 2], [0, 2], True),
        ([1, 2, 2, 1], [0, 1], True),
        ([1, 2, 2, 1], [2, 3], True),
        ([0, 0], [0, 1], True),
    ],
)
def test_factors_that_lie_as_they_are_wanted_are_not_copied(ranks: list[int], skills: list[int], copied: bool) -> None:
    one = case(4, ranks, len(skills), 2, biases=True)
    chosen = torch.tensor(skills)
    own = one.layer.own(chosen)
    held = one.layer.down.untyped_storage().data_ptr()
    assert (own.down.untyped_storage().data_ptr() != held) == copied
    weights = torch.nn.functional.one_hot(chosen + 1, len(ranks) + 1)[:, 1:].double()
    with torch.inference_mode():
        found = one.layer.gathered(one.output.clone(), one.x, own)
    torch.testing.assert_close(found, expected(one, weights))
