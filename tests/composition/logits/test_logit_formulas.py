"""Formulas of logit space: their properties, and worked examples of a few tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.composition.logits import formulas
from genepool.composition.logits.dynamic import HIGHEST, FusionProblem, best_scale, best_scales
from genepool.composition.logits.rules import DynamicFusion, Shifted, WeightedByShift

NEVER = float("-inf")


def logits(seed: int, *shape: int, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def test_a_shift_of_two_tokens_by_hand() -> None:
    lead, tuned, untuned = torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 0.0]]), torch.tensor([1.0, 1.0])
    moved = formulas.shift(tuned, untuned.expand_as(tuned))
    assert (moved[0, 0] - moved[0, 1]).item() == pytest.approx(3.0)
    fused = formulas.shifted(lead, moved, torch.tensor([0.5]))
    assert (fused[0] - fused[1]).item() == pytest.approx(0.5)


def test_a_token_that_a_small_model_lacks_is_not_shifted() -> None:
    tuned, untuned = torch.tensor([0.0, NEVER, NEVER]), torch.tensor([0.25, 0.0, 0.75]).log()
    assert formulas.shift(tuned, untuned).tolist() == pytest.approx([math.log(4), 0.0, 0.0])


@given(st.integers(0, 10_000), st.floats(-30, 30))
def test_a_constant_in_a_models_logits_moves_no_token_that_it_lacks(seed: int, constant: float) -> None:
    """As with a padded vocabulary: the leading model's logits have another constant than what is mapped onto them."""
    lead, tuned = logits(seed, 6), logits(seed + 1, 1, 6)
    tuned[..., -1] = NEVER
    one, other = (Shifted((1.0,), untuned=False).fuse(lead, each, None)[0] for each in (tuned, tuned + constant))
    assert torch.allclose(one.softmax(-1), other.softmax(-1), atol=1e-9)


def test_scales_are_found_where_the_leading_model_has_more_tokens() -> None:
    lead, tuned = logits(0, 1, 6), logits(1, 2, 1, 6)
    tuned[..., -1] = NEVER
    problem = FusionProblem.of(lead, tuned, lead)
    assert bool(problem.backward.isfinite().all())
    start = torch.full((2, 1), 0.5, dtype=torch.float64)
    assert problem.loss(best_scales(problem, start))[0] < problem.loss(start)[0]


def test_plausible_keeps_what_has_a_tenth_of_the_best() -> None:
    judge = torch.tensor([0.5, 0.06, 0.04]).log()
    assert formulas.plausible(torch.tensor([1.0, 2.0, 3.0]), judge, 0.1).tolist() == [1.0, 2.0, NEVER]


def test_a_divergence_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert formulas.divergence(p, q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)
    both = torch.tensor([0.25, 0.25, 0.5]).log(), torch.tensor([0.0, math.log(3), NEVER])
    assert formulas.divergence(*both).item() == pytest.approx(formulas.divergence(p, q).item(), rel=1e-5)


@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_divergences_are_never_below_zero_and_know_no_constant(seed: int, constant: float) -> None:
    p, q = logits(seed, 7), logits(seed + 1, 7)
    found = formulas.divergence(p, q)
    assert found >= 0
    assert formulas.divergence(p + constant, q).item() == pytest.approx(found.item(), abs=1e-9)
    assert formulas.divergence(p, p).item() == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 10_000))
def test_log_probabilities_shift_as_logits_do(seed: int) -> None:
    """Emulated fine-tuning is told in log-probabilities, proxy tuning in logits: their predictions are the same."""
    lead, tuned, untuned = logits(seed, 9), logits(seed + 1, 1, 9), logits(seed + 2, 9)
    one = formulas.shifted(lead, formulas.shift(tuned, untuned.expand_as(tuned)), torch.ones(1))
    logs = [each.log_softmax(-1) for each in (lead, tuned, untuned)]
    other = formulas.shifted(logs[0], formulas.shift(logs[1], logs[2].expand_as(tuned)), torch.ones(1))
    assert torch.allclose(one.softmax(-1), other.softmax(-1), atol=1e-12)


@given(st.integers(0, 10_000))
def test_a_model_shifted_by_its_own_tuned_self_is_the_tuned_model(seed: int) -> None:
    base, tuned = logits(seed, 4, 9), logits(seed + 1, 1, 4, 9)
    fused = Shifted((1.0,), untuned=False).fuse(base, tuned, None)[0]
    assert torch.allclose(fused.softmax(-1), tuned[0].softmax(-1))


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_divergences_slopes_are_those_of_autograd(seed: int, skills: int) -> None:
    lead, tuned, untuned = logits(seed, 3, 8), logits(seed + 1, skills, 3, 8), logits(seed + 2, 3, 8)
    problem = FusionProblem.of(lead, tuned, untuned)
    scales = torch.rand(skills, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2)
    scales.requires_grad_(True)
    fused = lead + (scales.unsqueeze(-1) * (tuned - untuned)).sum(0)
    forward, backward = formulas.divergence(fused, lead), formulas.divergence(lead, fused)
    found = problem.moved(scales.detach())
    assert torch.allclose(found[0], forward)
    assert torch.allclose(found[1], backward)
    assert torch.allclose(found[2], torch.autograd.grad(forward.sum(), scales, retain_graph=True)[0])
    assert torch.allclose(found[3], torch.autograd.grad(backward.sum(), scales, retain_graph=True)[0])
    loss = ((forward - problem.forward) ** 2 + (backward - problem.backward) ** 2).sum(0)
    value, slope = problem.loss(scales.detach())
    assert torch.allclose(value, loss)
    assert torch.allclose(slope, torch.autograd.grad(loss.sum(), scales)[0])


@settings(max_examples=6)
@given(st.integers(0, 10_000))
def test_a_large_model_that_is_the_small_one_takes_the_whole_shift(seed: int) -> None:
    """Then the scale 1 reaches both divergences exactly."""
    small, tuned = logits(seed, 5, 9), logits(seed + 1, 1, 5, 9)
    scales = best_scale(FusionProblem.of(small, tuned, small))
    assert torch.allclose(scales, torch.ones_like(scales), atol=1e-3)


@settings(max_examples=6)
@given(st.integers(0, 10_000))
def test_no_scale_of_a_fine_grid_is_better_than_the_one_found(seed: int) -> None:
    problem = FusionProblem.of(logits(seed, 6, 9), logits(seed + 1, 1, 6, 9), logits(seed + 2, 6, 9))
    found = problem.loss(best_scale(problem))[0]
    grid = torch.linspace(0, HIGHEST, 81, dtype=torch.float64)
    best = torch.stack([problem.loss(at.expand(1, 6))[0] for at in grid]).min(0).values
    assert (found <= best + 1e-6 * (1 + best)).all()


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_several_scales_stay_in_bounds_and_never_end_above_their_start(seed: int, skills: int) -> None:
    problem = FusionProblem.of(logits(seed, 5, 9), logits(seed + 1, skills, 5, 9), logits(seed + 2, 5, 9))
    start = torch.full((skills, 5), 0.5, dtype=torch.float64)
    found = best_scales(problem, start)
    assert (found >= 0).all()
    assert (found <= HIGHEST).all()
    assert (problem.loss(found)[0] <= problem.loss(start)[0]).all()


@settings(max_examples=6)
@given(st.integers(0, 10_000))
def test_a_row_is_solved_the_same_alone_and_among_others(seed: int) -> None:
    lead, tuned, untuned = logits(seed, 5, 9), logits(seed + 1, 2, 5, 9), logits(seed + 2, 5, 9)
    start = torch.full((2, 5), 0.5, dtype=torch.float64)
    together = best_scales(FusionProblem.of(lead, tuned, untuned), start)
    alone = best_scales(FusionProblem.of(lead[2:3], tuned[:, 2:3], untuned[2:3]), start[:, 2:3])
    assert torch.allclose(together[:, 2:3], alone, atol=1e-9)


def test_a_rule_begins_rows_of_its_own_while_others_go_on() -> None:
    lead, others = logits(0, 2, 9), logits(1, 2, 2, 9)
    for rule in (DynamicFusion(2, untuned=False), WeightedByShift(2, 0.1)):
        nothing = torch.full((2, 2), float("nan"), dtype=torch.float64)
        first, state = rule.fuse(lead, others, nothing)
        assert state is not None
        assert state.isfinite().all()
        mixed = torch.stack([state[0], nothing[1]])
        again, after = rule.fuse(lead, others, mixed)
        assert after is not None
        assert torch.allclose(again[1], first[1])
        assert torch.allclose(after[1], state[1])


def test_weights_by_shift_are_kept_from_the_first_place() -> None:
    rule = WeightedByShift(2, 0.1)
    lead, others = logits(0, 1, 9), logits(1, 2, 1, 9)
    _, state = rule.fuse(lead, others, torch.full((1, 2), float("nan"), dtype=torch.float64))
    later, after = rule.fuse(logits(2, 1, 9), logits(3, 2, 1, 9), state)
    assert state is not None
    assert after is not None
    assert torch.equal(after, state)
    assert state.sum().item() == pytest.approx(1)
    moved = logits(3, 2, 1, 9) * state.T.unsqueeze(-1)
    assert torch.allclose(later.softmax(-1), moved.sum(0).softmax(-1))
