"""Transfer: matrices by hand, what must hold for any two models, tau-b against scipy, hits by trying every order."""

from __future__ import annotations

import json
import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from genepool import seeding
from genepool.errors import InputError
from genepool.measure import macro_paired_bootstrap, paired_bootstrap, wilson
from genepool.measure.transfer import (
    Outcomes,
    agreement,
    complementary,
    complementary_knowledge,
    kendall_tau_b,
    transfer_matrix,
)
from genepool.tasks import Example, Outcome, OutcomeTable
from genepool.tasks.table import TaskOutcomes

SCORES = {
    "base": {"add": [0, 0, 1, 1], "copy": [1, 0]},
    "adder": {"add": [1, 1, 1, 1], "copy": [0, 0]},
    "merge": {"add": [1, 0, 1, 1], "copy": [1, 1]},
}
pairs_of_scores = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.75, 1.0])] * 2), min_size=1, max_size=25)
rankings = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6)


@pytest.fixture
def table() -> OutcomeTable:
    examples = {"add": [Example(str(i), f"{i}+1=", ("1",)) for i in range(4)]}
    examples["copy"] = [Example(str(i), f"{i}:", ("1",)) for i in range(2)]
    cells = {
        (model, task): TaskOutcomes(tuple(Outcome(float(score), None) for score in scores), 0)
        for model, row in SCORES.items()
        for task, scores in row.items()
    }
    return OutcomeTable(cells, examples, {model: model for model in SCORES}, "test")


# ---------------------------------------------------------------------- task to task


def test_the_matrix_holds_every_model_against_the_base(table: OutcomeTable) -> None:
    found = transfer_matrix(table, "base", {"adder": "add"})
    assert (found.models, found.tasks) == (("adder", "merge"), ("add", "copy"))
    assert {place: cell.difference for place, cell in found.cells.items()} == {
        ("adder", "add"): 0.5,
        ("adder", "copy"): -0.5,
        ("merge", "add"): 0.25,
        ("merge", "copy"): 0.5,
    }
    assert found.cells["merge", "add"] == paired_bootstrap(table.scores("merge", "add"), table.scores("base", "add"))
    # Elsewhere: the adder's loss in copying; a merge was trained on neither.
    assert found.elsewhere["adder"].difference == -0.5
    tasks = [[table.scores(model, task) for task in table.tasks] for model in ("merge", "base")]
    assert found.elsewhere["merge"] == macro_paired_bootstrap(*tasks)
    # Four cells were looked at.
    smallest = min(found.cells, key=lambda place: found.cells[place].p)
    assert found.p[smallest] == pytest.approx(min(1, 4 * found.cells[smallest].p))
    rows = json.loads(json.dumps(found.to_dict()))["rows"]
    assert [(row["model"], row["trained"], row["cells"][1]["difference"]) for row in rows] == [
        ("adder", "add", -0.5),
        ("merge", None, 0.5),
    ]


def test_a_model_trained_on_the_only_task_has_no_elsewhere() -> None:
    class One(Outcomes):
        models, tasks = ("base", "tuned"), ("t",)

        def scores(self, model: str, task: str) -> np.ndarray:
            return np.array([float(model == "tuned"), 0.0])

    assert transfer_matrix(One(), "base", {"tuned": "t"}).elsewhere == {}
    assert list(transfer_matrix(One(), "base").elsewhere) == ["tuned"]


@pytest.mark.parametrize(
    ("base", "trained", "complaint"),
    [
        ("bas", {}, "no model 'bas' in this table. Did you mean 'base'?"),
        ("base", {"ader": "add"}, "no model 'ader'"),
        ("base", {"adder": "ad"}, "no task 'ad' in this table. Did you mean 'add'?"),
    ],
)
def test_names_that_are_not_in_the_table_are_refused(
    table: OutcomeTable, base: str, trained: dict[str, str], complaint: str
) -> None:
    with pytest.raises(InputError) as caught:
        transfer_matrix(table, base, trained)
    assert complaint in str(caught.value)


def test_a_base_alone_has_no_transfer() -> None:
    class Alone(Outcomes):
        models, tasks = ("base",), ("t",)

        def scores(self, model: str, task: str) -> np.ndarray:
            return np.ones(3)

    with pytest.raises(InputError, match="there is no model besides 'base'"):
        transfer_matrix(Alone(), "base")
    with pytest.raises(InputError, match="there are fewer than two models"):
        complementary_knowledge(Alone())


# ---------------------------------------------------------------------- complementary knowledge


def test_complementary_knowledge_by_hand() -> None:
    # Of ten examples both solve 3, only the student 2, only the teacher 4, neither 1.
    student = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=np.float64)
    teacher = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 0], dtype=np.float64)
    found = complementary(student, teacher)
    assert (found.student, found.teacher) == (wilson(5, 10), wilson(7, 10))
    assert (found.rho_pos, found.rho_neg, found.union) == (wilson(4, 10), wilson(2, 10), wilson(9, 10))
    assert found.gain.difference == pytest.approx(0.2)
    assert found.to_dict()["rho_pos"]["mean"] == 0.4


@given(pairs_of_scores)
def test_the_union_is_never_worse_and_the_roles_can_be_exchanged(drawn: list[tuple[float, float]]) -> None:
    student, teacher = np.array(drawn).T
    found = complementary(student, teacher)
    assert found.union.mean >= max(found.student.mean, found.teacher.mean)
    assert found.gain.difference == pytest.approx(found.union.mean - max(found.student.mean, found.teacher.mean))
    assert found.gain.lo >= 0
    back = complementary(teacher, student)
    assert back.rho_pos == found.rho_neg == found.reversed.rho_pos
    assert found.reversed.reversed == found
    if set(np.concatenate([student, teacher])) <= {0.0, 1.0}:
        assert found.union.mean == pytest.approx(found.student.mean + found.rho_pos.mean)
    alike = complementary(student, student)
    assert (alike.rho_pos.mean, alike.rho_neg.mean, alike.gain.difference) == (0, 0, 0)


def test_every_two_models_in_both_orders(table: OutcomeTable) -> None:
    found = complementary_knowledge(table)
    assert len(found) == 3 * 2 * 2
    assert found["base", "adder", "add"].rho_pos == wilson(2, 4)
    assert found["adder", "base", "add"].rho_pos == wilson(0, 4)
    assert found["adder", "merge", "copy"].union == wilson(2, 2)
    with pytest.raises(InputError, match="got 3 examples, expected 2"):
        complementary(np.ones(3), np.ones(2))


# ---------------------------------------------------------------------- estimates against truth


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=20))
def test_tau_is_scipys(drawn: list[tuple[int, int]]) -> None:
    first, second = np.array(drawn).T
    found = kendall_tau_b(first, second)
    expected = float(kendalltau(first, second).statistic) if len(drawn) > 1 else math.nan
    assert (found is None) == math.isnan(expected)
    if found is not None:
        assert found == pytest.approx(expected)
        assert kendall_tau_b(-first, second) == pytest.approx(-found)


@given(rankings)
def test_regret_and_hits_are_the_mean_over_every_order_of_equal_estimates(drawn: list[tuple[int, int]]) -> None:
    estimates, truth = np.array(drawn, dtype=np.float64).T
    orders = [
        order
        for order in permutations(range(len(drawn)))
        if all(estimates[a] >= estimates[b] for a, b in pairwise(order))
    ]
    found = agreement(estimates, truth, ks=range(1, 9))
    assert found.regret == pytest.approx(np.mean([truth.max() - truth[order[0]] for order in orders]))
    assert list(found.hits) == list(range(1, len(drawn) + 1))
    for k, share in found.hits.items():
        expected = np.mean([(truth[list(order[:k])] == truth.max()).any() for order in orders])
        assert share == pytest.approx(expected)
    assert found.hits[len(drawn)] == 1


@given(rankings, st.randoms(use_true_random=False))
def test_the_order_of_sources_is_no_matter_to_the_estimates(drawn: list[tuple[int, int]], random: object) -> None:
    mixed = list(drawn)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = (agreement(*np.array(rows, dtype=np.float64).T) for rows in (drawn, mixed))
    assert one.regret == pytest.approx(other.regret)
    assert one.hits == pytest.approx(other.hits)
    assert (one.tau is None) == (other.tau is None)
    if one.tau is not None and other.tau is not None:
        assert one.tau.mean == pytest.approx(other.tau.mean)
        assert -1 - 1e-9 <= one.tau.lo <= one.tau.hi <= 1 + 1e-9


def test_several_targets_are_averaged_and_resampled() -> None:
    estimates = [[3, 2, 1], [1, 2, 3], [1, 1, 1], [3, 1, 2]]
    truth = [[0.3, 0.2, 0.1], [0.3, 0.2, 0.1], [0.5, 0.2, 0.2], [0.3, 0.2, 0.1]]
    found = agreement(estimates, truth, ks=(1, 2, 5))
    assert (found.sources, found.targets) == (3, 4)
    # Right, wrong way round, nothing said, one pair of three wrong.
    assert found.tau is not None
    assert found.tau.mean == pytest.approx((1 - 1 + 1 / 3) / 3)
    assert found.tau.lo == pytest.approx(-1)
    assert found.regret == pytest.approx((0 + 0.2 + 0.2 + 0) / 4)
    assert found.hits == pytest.approx({1: (1 + 0 + 1 / 3 + 1) / 4, 2: (1 + 0 + 2 / 3 + 1) / 4})
    assert json.loads(json.dumps(found.to_dict()))["hits"]["2"] == pytest.approx(2 / 3)


def test_a_perfect_estimate_is_surely_one() -> None:
    found = agreement(np.arange(12), np.arange(12) ** 2)
    assert found.tau == pytest.approx((1, 1, 1))
    assert (found.regret, found.hits) == (0, {1: 1, 3: 1})


def test_what_tells_no_source_apart_has_no_tau() -> None:
    assert agreement([1, 1, 1], [0.1, 0.2, 0.3]).tau is None
    one = agreement([0.5], [0.1])
    assert (one.tau, one.regret, one.hits) == (None, 0, {1: 1})


@pytest.mark.slow
def test_taus_interval_covers_the_taus_of_a_normal_population() -> None:
    # Kendall's tau of a bivariate normal with correlation r is 2/pi asin r.
    generator = seeding.numpy_generator(0, "normal")
    covered = 0
    for _ in range(100):
        first = generator.normal(size=25)
        second = 0.6 * first + 0.8 * generator.normal(size=25)
        tau = agreement(first, second).tau
        assert tau is not None
        covered += tau.lo <= 2 / math.pi * math.asin(0.6) <= tau.hi
    # 95 expected; four standard deviations are 9.
    assert covered >= 86


@pytest.mark.parametrize(
    ("estimates", "truth", "ks"),
    [([], [], (1,)), ([1.0], [1.0, 2.0], (1,)), ([math.nan], [1.0], (1,)), ([1.0], [1.0], (0,))],
)
def test_what_cannot_be_ranked_is_refused(estimates: list[float], truth: list[float], ks: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        agreement(estimates, truth, ks=ks)
