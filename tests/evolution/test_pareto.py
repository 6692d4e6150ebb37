"""Fronts: pymoo agrees, worked examples, and NSGA-II on a problem whose front is known."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genepool.evolution.pareto import crowding, hypervolume, knee, ranks
from genepool.evolution.strategies import make_strategy
from genepool.evolution.strategies.base import Evidence
from genepool.evolution.strategies.nsga2 import Nsga2

# Eighths, so that ties are common.
tables = st.integers(1, 25).flatmap(
    lambda n: arrays(np.float64, (n, 2), elements=st.integers(0, 8).map(lambda i: i / 8))
)


@given(tables)
def test_ranks_are_pymoos(table: np.ndarray) -> None:
    sorting = importlib.import_module("pymoo.util.nds.non_dominated_sorting")
    _, theirs = sorting.NonDominatedSorting().do(-table, return_rank=True)
    assert ranks(table).tolist() == theirs.tolist()


@given(st.integers(3, 20).flatmap(lambda n: arrays(np.float64, (n, 3), elements=st.floats(0, 1), unique=True)))
def test_crowding_is_pymoos_where_values_differ(table: np.ndarray) -> None:
    metrics = importlib.import_module("pymoo.operators.survival.rank_and_crowding.metrics")
    theirs = metrics.calc_crowding_distance(-table)
    # pymoo takes the mean over the objectives, the paper their sum.
    ours = crowding(table) / table.shape[1]
    assert np.allclose(np.where(np.isinf(ours), 1e9, ours), np.where(np.isinf(theirs), 1e9, theirs))


def test_a_front_worked_out_by_hand() -> None:
    table = np.array([[3, 1], [1, 3], [2, 2], [1, 1], [2, 1]], dtype=float)
    assert ranks(table).tolist() == [0, 0, 0, 2, 1]
    assert crowding(table[:3]).tolist() == [np.inf, np.inf, 2.0]
    # 3x1 + 1x3 + 2x2 from the origin, overlaps counted once: rows of height 1, 2 and 3 from the right.
    assert hypervolume(table, np.zeros(2)) == 3 * 1 + 2 * 1 + 1 * 1
    assert hypervolume(np.zeros((1, 2)), np.ones(2)) == 0
    with pytest.raises(ValueError, match="two objectives"):
        hypervolume(np.zeros((1, 3)), np.zeros(3))


def test_the_knee_is_where_little_is_given_up_for_much() -> None:
    assert knee(np.array([[0, 10], [8, 9], [10, 0]], dtype=float)) == 1
    assert knee(np.array([[0, 10], [1, 2], [10, 0]], dtype=float)) in (0, 2)
    assert knee(np.array([[0.5, 0.5]])) == 0
    assert knee(np.full((3, 2), 0.5)) == 0


def zdt1(xs: np.ndarray) -> np.ndarray:
    """Both objectives of ZDT1, minimised, shape (n, 2)."""
    g = 1 + 9 * xs[:, 1:].mean(axis=1)
    return np.stack([xs[:, 0], g * (1 - np.sqrt(xs[:, 0] / g))], axis=1)


def test_nsga2_covers_what_pymoo_covers_on_zdt1() -> None:
    # pymoo, population 64, 100 generations, d = 30: a hypervolume of about 0.7525 at (1.1, 1.1).
    search = make_strategy("nsga2", np.full(30, 0.5), seed=1, options={"population": 64})
    assert isinstance(search, Nsga2)
    for _ in range(100):
        xs = search.ask()
        search.tell(xs, np.zeros(len(xs)), Evidence(("a", "b"), -zdt1(xs), np.zeros((len(xs), 1))))
    points, values = search.front()
    area = hypervolume(values, np.array([-1.1, -1.1]))
    assert 0.70 < area < 0.872, "the whole front would cover 0.8767"
    guess = search.guess()
    assert guess is not None
    assert any(np.array_equal(guess, point) for point in points)


def test_objectives_may_be_some_of_the_tasks_and_must_exist() -> None:
    for strategy, key in (("nsga2", "objectives"), ("map_elites", "behaviours")):
        search = make_strategy(strategy, np.full(2, 0.5), seed=0, options={key: ["b"]})
        xs = search.ask()
        means = np.random.default_rng(0).random((len(xs), 2))
        search.tell(xs, means[:, 0], Evidence(("a", "b"), means, means))
        wrong = make_strategy(strategy, np.full(2, 0.5), seed=0, options={key: ["c"]})
        with pytest.raises(ValueError, match="no task 'c'"):
            wrong.tell(wrong.ask(), means[:, 0], Evidence(("a", "b"), means, means))
        silent = make_strategy(strategy, np.full(2, 0.5), seed=0)
        with pytest.raises(ValueError, match="must be told"):
            silent.tell(silent.ask(), means[:, 0])
