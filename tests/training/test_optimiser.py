"""The optimiser: torch's AdamW, resumed to the same bits, in float32 whatever the parameters are."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.training import Diverged, Optimisation, Optimiser, fit
from genepool.training.fit import drawing


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(4, 3, generator=generator).to(dtype)) for name in "ab"}


def descending(held: dict[str, torch.nn.Parameter]):
    """Leaves gradients that belong to the step alone, and the loss they are of."""

    def gradients(step: int) -> float:
        loss = torch.zeros(())
        for number, parameter in enumerate(held.values()):
            target = torch.randn(4, 3, generator=torch.Generator().manual_seed(100 * step + number))
            loss = loss + ((parameter.float() - target) ** 2).sum()
        loss.backward()
        return float(loss.detach())

    return gradients


@given(
    steps=st.integers(1, 12),
    stop=st.integers(0, 11),
    fused=st.booleans(),
    low=st.booleans(),
    shape=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_a_loop_that_was_stopped_anywhere_goes_on_to_the_same_bits(
    steps: int, stop: int, fused: bool, low: bool, shape: str
) -> None:
    stop = min(stop, steps)
    settings = Optimisation(steps, 0.1, warmup=2, shape=shape, weight_decay=0.01, fused=fused)  # type: ignore[arg-type]
    kind = torch.bfloat16 if low else torch.float32
    whole = parameters(kind)
    at_once = Optimiser(whole, settings)
    fit(at_once, descending(whole))
    held = parameters(kind)
    first = Optimiser(held, settings)
    fit(first, descending(held), lambda step: step.number == stop) if stop else None
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    other = parameters(kind)
    second = Optimiser(other, settings)
    second.restore(state, stop)
    fit(second, descending(other), start=stop)
    for name, tensor in at_once.state().items():
        assert torch.equal(tensor, second.state()[name]), name
    for name in whole:
        assert torch.equal(whole[name], other[name])


def test_float32_parameters_move_as_torchs_own_adamw_moves_them() -> None:
    ours, theirs = parameters(), parameters()
    settings = Optimisation(5, 0.1, shape="constant", weight_decay=0.01, clip=0.5, fused=False)
    fit(Optimiser(ours, settings), descending(ours))
    adam = torch.optim.AdamW(theirs.values(), lr=0.1, weight_decay=0.01)
    for step in range(5):
        descending(theirs)(step)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        adam.step()
        adam.zero_grad()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_steps_below_the_rounding_of_bfloat16_add_up() -> None:
    held = {"a": torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))}
    optimiser = Optimiser(held, Optimisation(100, 1e-4, shape="constant"))

    def gradients(step: int) -> float:
        held["a"].grad = torch.ones(1, dtype=torch.bfloat16)
        return 1.0

    fit(optimiser, gradients)
    assert float(optimiser.trained()["a"]) == pytest.approx(0.99, abs=1e-4)
    assert float(held["a"]) == pytest.approx(0.99, abs=0.004)


@given(steps=st.integers(1, 50), warmup=st.integers(0, 10), floor=st.floats(0, 1))
def test_rates_rise_to_the_largest_and_fall_to_the_floor(steps: int, warmup: int, floor: float) -> None:
    for shape in ("linear", "cosine", "constant"):
        settings = Optimisation(steps, 2.0, warmup, shape, floor)  # type: ignore[arg-type]
        rates = [settings.rate(step) for step in range(steps)]
        assert all(0 < rate <= 2.0 + 1e-12 or floor == 0 for rate in rates)
        assert max(rates) == pytest.approx(2.0 if steps > warmup else 2.0 * steps / warmup)
        after = rates[warmup:]
        assert all(one >= other - 1e-12 for one, other in itertools.pairwise(after))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_whose_loss_or_gradient_is_no_number_is_not_taken(value: float) -> None:
    for what in ("loss", "gradient"):
        held = parameters()
        before = {name: parameter.detach().clone() for name, parameter in held.items()}

        def gradients(step: int, held=held, what=what) -> float:
            for parameter in held.values():
                parameter.grad = torch.full_like(parameter, value if what == "gradient" else 1.0)
            return value if what == "loss" else 1.0

        with pytest.raises(Diverged, match=f"the {what} of step 1"):
            fit(Optimiser(held, Optimisation(3, 0.1)), gradients)
        assert all(torch.equal(before[name], held[name]) for name in held)


def test_a_state_of_other_shapes_is_refused() -> None:
    optimiser = Optimiser(parameters(), Optimisation(3, 0.1))
    state = {**optimiser.state(), "value:a": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match="a is"):
        optimiser.restore(state, 0)
    with pytest.raises(KeyError):
        optimiser.restore({"value:a": torch.zeros(4, 3)}, 0)


def test_draws_belong_to_seed_step_and_purpose_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = []
    for place in ((0, 1, "dropout"), (0, 1, "dropout"), (0, 2, "dropout"), (1, 1, "dropout"), (0, 1, "other")):
        with drawing(*place):
            found.append(torch.rand(3))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(found[0], found[1])
    assert len({tuple(one.tolist()) for one in found}) == 4
