"""The losses of preferences, distillation and rollouts on numbers that a reader can check, and their properties."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Example, Task
from genepool.training import find_objective, objectives
from genepool.training.divergences import drawn_divergences, jensen_shannon, kullback_leibler
from genepool.training.examples import TrainingExample
from genepool.training.objectives import PairLikelihoods, PairObjective
from genepool.training.rewards import Reward, Rewards, find_reward, rewards
from genepool.training.rollout_objective import RolloutLikelihoods, RolloutObjective
from genepool.training.samples import Sample

# Log-likelihoods -2, -6 where the model began with -3, -4; answers of 2 and 4 tokens: d_w = 1, d_l = -2.
POLICY = PairLikelihoods(*torch.tensor([[-2.0], [-6.0], [2.0], [4.0]]))
BEGAN = PairLikelihoods(*torch.tensor([[-3.0], [-4.0], [2.0], [4.0]]))
BY_HAND = {
    ("dpo", 0.1, 0.0): math.log1p(math.exp(-0.3)),
    ("dpo", 0.1, 0.2): (0.8 * math.log1p(math.exp(-0.3)) - 0.2 * math.log1p(math.exp(0.3))) / 0.6,
    ("ipo", 0.1, 0.0): (0.5 + 0.5 - 5) ** 2,
    ("dpo_norm", 5.0, 0.0): math.log1p(math.exp(-5.0)),
}
PAIRS = sorted(name for name, one in objectives().items() if issubclass(one, PairObjective))
numbers = st.floats(-20, 0, width=32)


def pair_objective(name: str, **options: Any) -> PairObjective:
    found = find_objective(name, options)
    assert isinstance(found, PairObjective)
    return found


def grpo(**options: Any) -> RolloutObjective:
    found = find_objective("grpo", options)
    assert isinstance(found, RolloutObjective)
    return found


@pytest.mark.parametrize(("name", "beta", "noise"), BY_HAND)
def test_preferences_by_hand(name: str, beta: float, noise: float) -> None:
    options = {"beta": beta, **({"label_smoothing": noise} if noise else {})}
    losses = pair_objective(name, **options).losses(POLICY, BEGAN)
    assert losses.tolist() == pytest.approx([BY_HAND[name, beta, noise]], rel=1e-5)


@pytest.mark.parametrize("name", PAIRS)
@given(values=st.lists(numbers, min_size=4, max_size=4))
def test_a_likelier_chosen_answer_is_never_worse_below_the_margin(name: str, values: list[float]) -> None:
    won, lost, won_before, lost_before = (torch.tensor([value]) for value in values)
    count = torch.tensor([3.0])
    objective = pair_objective(name, beta=0.01)  # the margin of ipo is 50, which nothing here reaches
    policy = PairLikelihoods(won.requires_grad_(True), lost.requires_grad_(True), count, count)
    objective.losses(policy, PairLikelihoods(won_before, lost_before, count, count)).sum().backward()
    assert policy.chosen.grad is not None
    assert policy.rejected.grad is not None
    assert float(policy.chosen.grad) < 0 < float(policy.rejected.grad)


def test_the_mean_of_robust_dpo_over_flipped_pairs_is_that_of_plain_dpo() -> None:
    turned = (
        PairLikelihoods(one.rejected, one.chosen, one.rejected_tokens, one.chosen_tokens) for one in (POLICY, BEGAN)
    )
    robust, plain = pair_objective("dpo", label_smoothing=0.25), pair_objective("dpo")
    mean = 0.75 * robust.losses(POLICY, BEGAN) + 0.25 * robust.losses(*turned)
    assert float(mean) == pytest.approx(float(plain.losses(POLICY, BEGAN)), rel=1e-5)


def test_divergences_by_hand_and_at_their_limits() -> None:
    one, two = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(kullback_leibler(one, two)) == pytest.approx(forward, rel=1e-5)
    assert torch.equal(jensen_shannon(one, two, 0), kullback_leibler(one, two))
    assert torch.equal(jensen_shannon(one, two, 1), kullback_leibler(two, one))
    middle = jensen_shannon(one, two, 0.5)
    assert float(middle) == pytest.approx(float(jensen_shannon(two, one, 0.5)), rel=1e-5)
    assert 0 < float(middle) < math.log(2)
    # k3 is unbiased: its mean over what the policy draws is the divergence.
    drawn = drawn_divergences(one[0], two[0])
    assert float((one[0].exp() * drawn).sum()) == pytest.approx(forward, rel=1e-5)


def test_advantages_by_hand_leave_failed_samples_out() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, math.nan, math.nan]])
    found = grpo().advantages(rewards).tolist()
    assert found[0] == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3], rel=1e-4)
    assert found[1] == [0, 0, 0, 0]
    assert found[2] == pytest.approx([0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4), 0, 0], rel=1e-4)


def test_the_clipped_policy_gradient_by_hand() -> None:
    policy = torch.tensor([0.0, 0.5, -0.5, 0.5, -0.5], requires_grad=True)
    tokens = RolloutLikelihoods(policy, torch.zeros(5), torch.zeros(5), torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0]))
    up, down = math.exp(0.5), math.exp(-0.5)
    losses = grpo().losses(tokens)
    assert losses.tolist() == pytest.approx([-1, -1.2, -down, up, 0.8], rel=1e-5)
    losses.sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-1, 0, -down, up, 0], rel=1e-5)  # beyond the clip nothing is gained
    held = grpo(kl=0.5).losses(tokens) - grpo().losses(tokens)
    assert held.tolist() == pytest.approx([0.5 * (math.exp(-p) + p - 1) for p in policy.tolist()], abs=1e-6)


def samples(*texts: str, answer: str = "a", metric: str = "exact_match") -> list[Sample]:
    task = Task("t", {})
    task.settings.metric = metric
    lesson = TrainingExample(task, Example("1", "p", (answer,)))
    return [Sample(lesson, (1,), (2,), text) for text in texts]


@given(st.lists(st.sampled_from(["a", "b", " b", "c"]), min_size=1, max_size=9))
def test_the_majority_rewards_the_most_frequent_answer(texts: list[str]) -> None:
    found = find_reward("majority").score(samples(*texts))
    counts = Counter(text.strip() for text in texts)
    assert sum(found) == max(counts.values())
    assert len({text.strip() for text, value in zip(texts, found, strict=True) if value}) == 1


def test_rewards_are_weighted_and_measured() -> None:
    both = Rewards({"metric": 1.0, "majority": 0.5})
    assert both.follows_majority
    assert both.of(samples("a", "b", "b", "c"), 4) == ([1.0, 0.5, 0.5, 0.0], "")
    assert both.measured_majority(samples("a", "b", "b", "a", "a", "c"), 3) == 0.5
    assert not Rewards("metric").follows_majority
    with pytest.raises(InputError, match="metric"):
        Rewards("metrix")
    with pytest.raises(InputError, match="no reward"):
        Rewards({})
    assert all(one.source and one.when for one in rewards().values())


class Failing(Reward):
    def score(self, samples: Any) -> list[float]:
        if samples[0].text == "raise":
            raise RuntimeError("it broke\nin two lines")
        return [math.nan if one.text == "nan" else 1.0 for one in samples]


def test_a_reward_that_fails_leaves_its_samples_out_and_says_why() -> None:
    both = Rewards("metric")
    both._parts = [(Failing(), 2.0)]
    Failing.name = "failing"
    found, why = both.of(samples("x", "nan", "raise", "x"), 2)
    assert found[0] == 2.0
    assert [math.isnan(value) for value in found] == [False, True, True, True]
    assert why == "failing: it broke in two lines"
    assert both.of(samples("x", "nan"), 2)[1] == "its value is no finite number"


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(InputError, match="betta.*beta"):
        find_objective("dpo", {"betta": 1})
    for wrong in ({"beta": 0}, {"beta": math.inf}, {"beta": "much"}, {"label_smoothing": 0.5}):
        with pytest.raises(InputError):
            find_objective("dpo", wrong)
