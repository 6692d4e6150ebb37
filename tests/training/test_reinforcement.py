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
from genepool.training.examples import TrainingExample
from genepool.training.objectives import RolloutLikelihoods, RolloutObjective
from genepool.training.rewards import RewardInputs, Rewards, find_reward, located
from genepool.training.rewards.novelty import novelty_rewards
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
    told = {"novelty": {"encoder": "here"}, "metric": 1, "majority": {"after": "="}}
    moved = located(told, lambda name: f"/there/{name}")
    assert moved == {"novelty": {"encoder": "/there/here"}, "metric": 1, "majority": {"after": "="}}
    assert located("metric", str.upper) == "metric"
    for wrong, said in (
        ({"majority": {"affter": "="}}, "affter"),
        ({"majority": {"weight": "much"}}, "must be a number"),
        ({"majority": {"weight": True}}, "must be a number"),
        ({"majority": {"weight": math.inf}}, "must be a number"),
    ):
        with pytest.raises(InputError, match=said):
            Rewards(wrong)
    with pytest.raises(InputError, match="no reward 'novel'"):
        find_reward("novel")
