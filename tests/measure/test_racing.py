"""Racing: how often it loses the best by simulation, what it saves, and what must hold for any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genepool import seeding
from genepool.errors import InputError
from genepool.measure.racing import Race, race_order

scores = st.tuples(st.integers(1, 5), st.integers(1, 30)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.5, 1.0]))
)


def run(table: np.ndarray, block: int, risk: float = 0.05) -> tuple[list[int], int]:
    """Who is left, and how many examples were asked of all."""
    race, asked = Race(len(table), table.shape[1], risk=risk), 0
    for start in range(0, table.shape[1], block):
        rows = table[race.running, start : start + block]
        asked += rows.size
        race.tell(rows)
        if len(race.running) == 1:
            break
    return race.running, asked


@given(scores, st.integers(1, 10))
def test_someone_stays_and_equals_never_part(table: np.ndarray, block: int) -> None:
    left, asked = run(table, block)
    assert left
    assert asked <= table.size
    same, _ = run(np.tile(table[:1], (4, 1)), block)
    assert same == [0, 1, 2, 3]


@given(scores)
def test_how_it_is_cut_into_blocks_does_not_matter_for_two(table: np.ndarray) -> None:
    pair = np.vstack([table[0], table[-1]])
    whole, parts = Race(2, pair.shape[1]), Race(2, pair.shape[1])
    whole.tell(pair)
    for column in pair.T:
        if len(parts.running) == 2:
            parts.tell(column[:, None])
    # Looking at every example can only part them sooner.
    assert set(parts.running) <= set(whole.running)


@pytest.mark.slow
@pytest.mark.parametrize("graded", [False, True])
def test_the_best_drops_out_no_more_often_than_stated(graded: bool) -> None:
    risk, races, lost = 0.2, 400, 0
    for number in range(races):
        generator = seeding.numpy_generator(1, "race", number)
        # Six that are nearly alike: the hardest case, where a wrong verdict is most easily had.
        shared = generator.random(150)
        table = (shared + 0.3 * generator.standard_normal((6, 150)) > 0.5).astype(np.float64)
        if graded:
            table = np.clip(0.3 * table + 0.7 * generator.random((6, 150)), 0, 1)
        totals = table.sum(1)
        left, _ = run(table, 10, risk)
        lost += not any(totals[i] == totals.max() for i in left)
    assert lost / races <= risk + 3 * (risk * (1 - risk) / races) ** 0.5


def test_clear_losers_cost_a_fraction_of_the_examples() -> None:
    generator = seeding.numpy_generator(2, "clear")
    skills = np.array([0.9, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.2])
    table = (generator.random((8, 400)) < skills[:, None]).astype(np.float64)
    left, asked = run(table, 20)
    assert left == [0]
    assert asked < table.size / 4


def test_who_cannot_catch_up_is_out_by_arithmetic() -> None:
    # Six of ten examples decide between one that is always right and one that is always wrong.
    race = Race(2, 10, risk=1e-9)
    table = np.array([[1.0] * 10, [0.0] * 10])
    assert race.tell(table[:, :5]) == []
    assert race.tell(table[:, 5:7]) == [1]


def test_the_order_is_a_shuffle_by_key() -> None:
    keys = [f"key {i}" for i in range(50)]
    order = race_order(keys, 3)
    assert sorted(order) == list(range(50))
    assert order != sorted(order)
    turned = race_order(keys[::-1], 3)
    assert [keys[i] for i in order] == [keys[::-1][i] for i in turned]


def test_what_is_no_race() -> None:
    race = Race(2, 3)
    for call in (
        lambda: Race(0, 3),
        lambda: Race(2, 0),
        lambda: Race(2, 3, risk=0),
        lambda: race.tell(np.zeros((3, 1))),
        lambda: race.tell(np.zeros((2, 4))),
        lambda: race.tell(np.full((2, 1), np.nan)),
    ):
        with pytest.raises(InputError):
            call()
