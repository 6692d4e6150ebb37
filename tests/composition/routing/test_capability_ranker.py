"""The ranker of capability routing: its formula by hand, what it learns, and when it declines."""

from __future__ import annotations

import math

import numpy as np
import torch

from genepool.composition.routing.capability_ranker import (
    CapabilityRanker,
    RankerFit,
    judged_ranker,
    listwise_loss,
    trained_ranker,
)
from genepool.composition.routing.nearest_means import DECLINED, judged_means, linear_discriminant

HOW = RankerFit(100, 0.05, 0.01, 0.1)


def test_the_listwise_loss_by_hand() -> None:
    expected = torch.tensor([[0.9, 0.5, 0.1]])
    logs = [one / 0.5 - math.log(sum(math.exp(other / 0.5) for other in (0.9, 0.5, 0.1))) for one in (0.9, 0.5, 0.1)]
    alone = listwise_loss(expected, torch.tensor([[0.0, 1.0, 0.0]]), 0.5)
    torch.testing.assert_close(float(alone), -logs[1])
    both = listwise_loss(expected, torch.tensor([[1.0, 1.0, 0.0]]), 0.5)
    torch.testing.assert_close(float(both), -(logs[0] + logs[1]) / 2)


def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three tasks, the task of each, and who is right: models 0 and 1 on one task each, the base on 2."""
    dice = np.random.default_rng(0)
    tasks = np.repeat(np.arange(3), 24)
    features = 4 * np.eye(3, 5)[tasks] + dice.normal(size=(72, 5))
    right = np.eye(3)[tasks]
    # Nobody is right twice, and all are once: nothing can be learned of either.
    right[:2], right[2] = 0, 1
    return features, tasks, right


def test_each_task_goes_to_the_model_that_can_do_it_and_a_new_model_needs_its_vector_alone() -> None:
    features, tasks, right = world()
    capabilities = np.eye(3)
    known = judged_means(linear_discriminant, features, tasks, 0.05).means
    ranker, told = judged_ranker(features, tasks, right, capabilities, known, HOW, 0.05)
    asked = torch.from_numpy(4 * np.eye(3, 5))
    assert ranker.chosen(asked).tolist() == [0, 1, 2]
    assert told["score"] > 0.9
    assert ranker.chosen(torch.full((1, 5), 1e3)).tolist() == [DECLINED]
    assert ranker.least is not None
    # A model that does all tasks a little better than the others comes later.
    better = torch.cat([torch.full((1, 3), 1.1), ranker.capabilities])
    later = CapabilityRanker(better, ranker.weight, ranker.bias, ranker.known, ranker.least)
    assert later.chosen(asked).tolist() == [0, 0, 0]


def test_expectations_are_means_of_accuracies_and_equals_go_to_the_base() -> None:
    features, tasks, right = world()
    known = judged_means(linear_discriminant, features, tasks, 0.0).means
    capabilities = np.array([[0.5, 0.2, 0.9], [0.5, 0.1, 0.3], [0.5, 0.2, 0.9]])
    ranker = trained_ranker(features, right, capabilities, known, HOW)
    expected = ranker.expected(torch.from_numpy(features))
    assert float(expected.min()) >= 0.1
    assert float(expected.max()) <= 0.9
    assert set(ranker.chosen(torch.from_numpy(features)).tolist()) == {2}
    # Too low an expectation is declined.
    strict = CapabilityRanker(ranker.capabilities, ranker.weight, ranker.bias, known, 0.95)
    assert set(strict.chosen(torch.from_numpy(features)).tolist()) == {DECLINED}
