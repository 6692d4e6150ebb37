"""Rewards and losses of reinforcement on numbers that a reader can check, and their properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Example, Task
from genepool.training import find_objective
from genepool.training.advantages import generalised_advantages, whitened
from genepool.training.examples import TrainingExample
from genepool.training.rewards import RewardInputs, Rewards, find_reward, located
from genepool.training.rewards.novelty import novelty_rewards
from genepool.training.rollout_objective import (
    RolloutLikelihoods,
    RolloutObjective,
    TokenValues,
    ValuedRolloutObjective,
)
from genepool.training.samples import Sample


def rollouts(name: str, **options: Any) -> RolloutObjective:
    found = find_objective(name, options)
    assert isinstance(found, RolloutObjective)
    return found


def samples(*texts: str, answer: str = "7") -> list[Sample]:
    task = Task("t", {})
    task.settings.metric = "contains"
    lesson = TrainingExample(task, Example("1", "p", (answer,)))
    return [Sample(lesson, (1,), (2,), text) for text in texts]


POLICY = torch.tensor([0.0, 0.5, -0.5])
TOKENS = RolloutLikelihoods(POLICY, torch.zeros(3), None, torch.tensor([1.0, 1.0, -1.0]), torch.tensor([2.0, 1.0, 0.0]))


def test_hybrid_post_training_by_hand() -> None:
    hybrid = rollouts("hpt", entropy=0.1, demonstration=0.3, gate=2)
    # Nothing is clipped: the ratio of exp(0.5) counts whole.
    assert hybrid.losses(TOKENS).tolist() == pytest.approx([-1.2, -math.exp(0.5) - 0.1, math.exp(-0.5)], rel=1e-5)
    assert hybrid.teaching_losses(TOKENS).tolist() == pytest.approx([-0.2, -0.25, 0.15], rel=1e-5)
    assert [hybrid.is_taught(solved) for solved in range(4)] == [True, True, True, False]
    found = hybrid.advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, math.nan, 0.0, math.nan]]))
    assert found.tolist() == [[0.75, -0.25, -0.25, -0.25], [0.5, 0, -0.5, 0]]


def test_a_higher_clip_and_entropy_by_hand() -> None:
    tokens = RolloutLikelihoods(TOKENS.policy, TOKENS.drawn, None, TOKENS.advantages, TOKENS.entropies)
    assert rollouts("grpo", clip_high=0.28, entropy=0.1).losses(tokens).tolist() == pytest.approx([-1.2, -1.38, 0.8])
    evolving = rollouts("evol_rl").drawing.model_dump()
    assert evolving == {
        "samples": 64, "trained": 32, "temperature": 1.0, "reward": "novelty", "iterations": 1, "clip": 0.2,
        "clip_high": 0.28, "kl": 0.001, "entropy": 0.003,
    }  # fmt: skip


def test_novelty_by_hand() -> None:
    # Cosines: 1 between the first two, 0.6 of each with the third, 0 with the fourth, which has 0.8 with the third.
    texts = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    # Of the majority: 1 - (1 + 0.6)/4 - 1/2 = 0.1 twice, 1 - 0.6/2 - 0.8/2 = 0.3; stretched to 0, 0 and 1.
    assert novelty_rewards(texts, [True, True, True, False]) == pytest.approx([0.5, 0.5, 1.0, -0.5])
    # 0 and 1 are alike: 1 - 1/2 - 1/2 = 0 each, so the middle. 2 and 3: 1 - 0.8/2 - 0.8/2 each, the middle too.
    assert novelty_rewards(texts, [True, True, False, False]) == pytest.approx([0.75, 0.75, -0.75, -0.75])
    # Opposite texts count as unlike, not as more than that: 2 is alone, and its mean is over all others.
    assert novelty_rewards(-texts[[0, 3, 2]].abs() * torch.tensor([[1.0], [-1.0], [1.0]]), [True, True, False]) == (
        pytest.approx([0.5, 1.0, -0.5])
    )


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=7))
def test_right_answers_are_always_better_and_each_band_is_used(texts: list[tuple[bool, int, int]]) -> None:
    right = [one[0] for one in texts]
    found = novelty_rewards(torch.tensor([[float(x), float(y)] for _, x, y in texts]), right)
    for band, low, high in ((True, 0.5, 1.0), (False, -1.0, -0.5)):
        group = [reward for reward, one in zip(found, right, strict=True) if one is band]
        assert all(low <= reward <= high for reward in group)
        if len(group) > 1 and len(set(group)) > 1:
            assert (min(group), max(group)) == (low, high)


def test_the_majority_of_answers_leaves_texts_free_to_differ() -> None:
    found = Rewards({"novelty": {"after": "="}})
    assert found.follows_majority
    assert found.needs_reference
    places = {
        "3+4=7": [1.0, 0.0],
        "4+3=7": [1.0, 0.0],
        "2+2+3=7": [0.0, 1.0],
        "3+4=8": [1.0, 1.0],
        "3+4= 7": [1.0, 0.0],
    }
    found.begin(RewardInputs(lambda texts: [torch.tensor([places[text]]) for text in texts], "cpu", "float32"))
    drawn = samples("3+4=7", "2+2+3=7", "3+4=8", "no idea", "3+4=", "4+3=7")
    assert found.of(drawn, 6) == ([0.5, 1.0, -0.5, -1.0, -1.0, 0.5], "")
    assert found.measured_majority(samples("3+4=8", "4+3=7", "3+4= 7", "1"), 4) == 1.0
    assert found.measured_majority(samples("8", "7"), 2) == 0.0
    # Nothing to compare: all are as bad as they can be, so nothing is learned.
    assert found.of(samples("3+4=7", "none"), 2) == ([-1.0, -1.0], "")
    found.begin(RewardInputs(lambda texts: [torch.full((1, 2), math.nan) for _ in texts], "cpu", "float32"))
    values, why = found.of(drawn, 6)
    assert all(map(math.isnan, values))
    assert "no finite number" in why


def test_options_of_rewards_are_checked_and_their_models_located() -> None:
    half = Rewards({"majority": {"weight": 0.5, "after": "="}, "metric": 2})
    assert half.of(samples("1=7", "2=7", "8"), 3) == ([2.5, 2.5, 0.0], "")
    assert half.settings() == {"majority": {"weight": 0.5, "after": "="}, "metric": {"weight": 2}}
    assert Rewards({"metric": "1e-3", "novelty": {"weight": "2e0"}}).settings()["metric"] == {"weight": 0.001}
    told = {"novelty": {"encoder": "here"}, "metric": 1, "majority": {"after": "="}}
    moved = located(told, lambda name: f"/there/{name}")
    assert moved == {"novelty": {"encoder": "/there/here"}, "metric": 1, "majority": {"after": "="}}
    assert located("metric", str.upper) == "metric"
    for wrong, said in (
        ({"majority": {"affter": "="}}, "affter"),
        ({"majority": {"weight": "much"}}, "must be a number"),
        ({"majority": {"weight": True}}, "must be a number"),
        ({"majority": {"weight": math.inf}}, "must be a number"),
        ({"majority": "nan"}, "must be a number"),
    ):
        with pytest.raises(InputError, match=said):
            Rewards(wrong)
    with pytest.raises(InputError, match="no reward 'novel'"):
        find_reward("novel")


numbers = st.floats(-3, 3, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_advantages_are_the_sum_of_all_later_errors(
    tokens: list[tuple[float, float]], discount: float, decay: float
) -> None:
    rewards, values = (torch.tensor(side, dtype=torch.float64) for side in zip(*tokens, strict=True))
    found = generalised_advantages(rewards, values, discount, decay)
    later = [*values.tolist()[1:], 0.0]
    errors = [r + discount * v - w for r, v, w in zip(rewards.tolist(), later, values.tolist(), strict=True)]
    expected = [
        sum((discount * decay) ** (at - token) * errors[at] for at in range(token, len(errors)))
        for token in range(len(errors))
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    if discount == 1 and decay == 1:
        # Nothing is believed of the values: what really came, less what was expected.
        assert found[0] == pytest.approx(float(rewards.sum() - values[0]))


def test_whitening_is_over_all_tokens() -> None:
    parts = whitened([torch.tensor([1.0]), torch.tensor([2.0, 6.0])])
    assert [part.tolist() for part in parts] == [
        pytest.approx([-2 / 7**0.5]), pytest.approx([-1 / 7**0.5, 3 / 7**0.5])
    ]  # fmt: skip
    assert whitened([torch.tensor([5.0])])[0].tolist() == [0.0]


def test_proximal_policy_optimisation_by_hand() -> None:
    policy = torch.tensor([0.5, 0.5, -0.5], requires_grad=True)
    values = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    known = TokenValues(values, torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]))
    tokens = RolloutLikelihoods(policy, torch.zeros(3), torch.zeros(3), torch.tensor([1.0, -1.0, -1.0]), values=known)
    losses = rollouts("reft", value=2.0).losses(tokens)
    # The larger error of a value and of the clipped one: 0.9, 0.5 (not 0.2), 0.5.
    assert losses.tolist() == pytest.approx([-1.2 + 0.81, math.exp(0.5) + 0.25, 0.8 + 0.25], rel=1e-5)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert policy.grad is not None
    assert values.grad is not None
    assert policy.grad.tolist() == pytest.approx([0, math.exp(0.5), 0], rel=1e-5)
    assert values.grad.tolist() == pytest.approx([-1.8, 1.0, -1.0], rel=1e-5)
    # The reward stands at the last token; a token that became likelier than it began costs there.
    reft = rollouts("reft", kl=0.5, decay=1.0)
    assert isinstance(reft, ValuedRolloutObjective)
    found = reft.token_advantages(
        1.0, torch.tensor([-1.0, -1.0]), torch.tensor([-2.0, -1.0]), torch.tensor([0.5, 0.25])
    )
    assert found.tolist() == pytest.approx([1 - 0.5 - 0.5, 1 - 0.25])


@pytest.mark.parametrize(
    ("text", "reads", "reward"),
    [("7", "number", 1.0), ("so 1,200", "number", 0.0), ("1,200", "number", 0.1), (" -2.5e3 ", "number", 0.1),
     ("nan", "number", 0.0), ("1_0", "number", 0.0), ("9" * 500, "number", 0.0), ("", "text", 0.0), ("x", "text", 0.1)],
)  # fmt: skip
def test_partial_credit(text: str, reads: str, reward: float) -> None:
    found = find_reward("partial_credit", {"reads": reads}).score(samples(text))
    assert found == [reward]
    assert find_reward("partial_credit", {"after": "=", "partial": 0.3}).score(samples("x=5", "5")) == [0.3, 0.0]
