"""Rules that rank answers by checks: features by hand, consistency, and a search that finds out faulty checks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.training.answer_ranking import FIRST, Checked, Rule, agreement, consistent, evolved, value_of

# Three answers, of which the first passes both good checks; the last check accepts everything.
PASSES = np.array([[True, True, True], [True, False, True], [False, False, True]])
FEATURES = {
    "accepts": [2 / 3, 1 / 3, 1.0],
    # Passes of the accepted less those of the rejected: (1 + 2/3) / 2 - 1/3; 1 - (2/3 + 1/3) / 2; nobody is rejected.
    "gap": [5 / 6 - 1 / 3, 1 - 1 / 2, 2 / 3],
    "rarity": [-math.log(3 / 4), -math.log(2 / 4), 0.0],
    "spread": [2 / 9, 2 / 9, 0.0],
}


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_what_a_formula_reads_of_checks(name: str) -> None:
    _, checks = Rule(name, "passed").scores(PASSES)
    assert checks.tolist() == pytest.approx(FEATURES[name])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("passed", [1.0, 2 / 3, 1 / 3]),
        # Weights 2/9, 2/9, 0.
        ("weighted", [1.0, 0.5, 0.0]),
        ("hardness", [(1 / 3 + 2 / 3 + 0) / 3, 1 / 6, 0.0]),
        ("alike", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_what_a_formula_reads_of_answers(name: str, wanted: list[float]) -> None:
    answers, _ = Rule("spread", name).scores(PASSES)
    assert answers.tolist() == pytest.approx(wanted)


def test_a_rule_is_consistent_when_its_best_check_knows_best_and_worst() -> None:
    right = np.array([True, False, False])
    # The check that most answers pass accepts the worst one too.
    assert not consistent(FIRST, Checked(PASSES, right))
    assert consistent(Rule("spread", "passed"), Checked(PASSES, right))
    # A best answer that is wrong is never consistent.
    assert not consistent(Rule("spread", "passed"), Checked(PASSES, ~right))
    assert agreement(FIRST, [Checked(PASSES, right), Checked(PASSES[:, :2], right)]) == 0.5


def _formulas() -> st.SearchStrategy[object]:
    leaves = st.sampled_from(["passed", "weighted"]) | st.floats(-1e9, 1e9)
    return st.recursive(
        leaves,
        lambda inner: (
            st.tuples(st.sampled_from(["add", "sub", "mul", "min", "max"]), inner, inner)
            | st.tuples(st.sampled_from(["neg", "square", "sqrt"]), inner)
        ),
        max_leaves=12,
    )


@given(_formulas())
def test_formulas_stay_finite_and_come_back_from_json(formula: object) -> None:
    features = {"passed": np.array([0.0, 1e6]), "weighted": np.array([-1e6, 3.0])}
    found = value_of(formula, features, 2)
    assert np.isfinite(found).all()
    assert value_of(json.loads(json.dumps(formula)), features, 2).tolist() == found.tolist()


def faulty(seed: int, count: int) -> list[Checked]:
    """Problems whose four good checks are outnumbered by eight that accept all wrong answers of the commonest kind."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        right = generator.permutation(np.arange(8) < 3)
        good = np.repeat(right[:, None], 4, axis=1) ^ (generator.random((8, 4)) < 0.05)
        # A faulty check accepts nearly everything, and wrong answers a little more often.
        loose = generator.random((8, 8)) < np.where(right, 0.7, 0.95)[:, None]
        found.append(Checked(np.concatenate([good, loose], axis=1), right))
    return found


@pytest.mark.slow
def test_a_rule_that_evolved_agrees_more_than_the_first_on_problems_it_never_saw() -> None:
    rule, share = evolved(faulty(0, 20), 0, rounds=60)
    assert share > agreement(FIRST, faulty(0, 20))
    assert agreement(rule, faulty(1, 100)) > agreement(FIRST, faulty(1, 100)) + 0.2
    again, _ = evolved(faulty(0, 20), 0, rounds=60)
    assert again == rule


def test_without_rounds_the_first_rule_stays() -> None:
    assert evolved(faulty(0, 5), 0, rounds=0)[0] == FIRST
