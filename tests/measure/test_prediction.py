"""Prediction: estimates and intervals against simulation, curves against those they were drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from genepool.errors import InputError
from genepool.measure.prediction import (
    learning_curve,
    metric_choice,
    pass_rate,
    pass_until,
    pass_until_task,
    task_scaling,
)
from genepool.tasks import LanguageModel, Ledger, OutcomeTable, Task, evaluate, load_tasks
from genepool.tasks.example import Example
from genepool.tasks.ledger import Outcome
from genepool.tasks.table import TaskOutcomes
from genepool.weights import open_weights

# ---------------------------------------------------------------------- PassUntil


def test_the_estimate_is_unbiased_and_the_interval_covers() -> None:
    draw = np.random.default_rng(0)
    for p in (0.05, 0.4):
        runs = [pass_until(lambda _, p=p: draw.random() < p, passes=3) for _ in range(1500)]
        rates = np.array([run.rate for run in runs])
        assert abs(rates.mean() - p) < 4 * rates.std() / math.sqrt(len(rates))
        naive = np.mean([run.passes / run.draws for run in runs])
        assert naive > rates.mean()
        covered = np.mean([run.interval.lo <= p <= run.interval.hi for run in runs])
        assert covered >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / len(runs))


@given(st.integers(1, 20), st.integers(0, 200))
def test_the_ends_are_those_of_the_binomial(passes: int, more: int) -> None:
    found = pass_rate(passes, passes + more)
    draws = passes + more
    assert found.interval.lo <= found.rate <= found.interval.hi
    # The chance of needing so few draws at the lower end, and so many at the upper one.
    low = float(beta.ppf(0.025, passes, draws - passes + 1))
    assert binom.sf(passes - 1, draws, low) == pytest.approx(0.025, rel=1e-6)
    if more and found.interval.hi > found.rate:
        assert binom.cdf(passes - 1, draws - 1, found.interval.hi) == pytest.approx(0.025, rel=1e-6)


def test_a_budget_censors() -> None:
    found = pass_until(lambda draw: draw == 5, passes=2, max_draws=10)
    assert (found.passes, found.draws, found.censored, found.rate) == (1, 10, True, 0.1)
    never = pass_until(lambda draw: False, max_draws=50)
    assert (never.rate, never.interval.lo) == (0.0, 0.0)
    assert never.interval.hi == pytest.approx(1 - 0.025 ** (1 / 50))
    always = pass_until(lambda draw: True)
    assert (always.rate, always.interval.hi) == (1.0, 1.0)


@pytest.mark.parametrize(("passes", "draws"), [(0, 5), (3, 2), (1, 0)])
def test_counts_that_cannot_be(passes: int, draws: int) -> None:
    with pytest.raises(InputError):
        pass_rate(passes, draws)


def test_a_task_is_sampled_until_it_passes(tiny_testbed: Any, tmp_path: Path) -> None:
    """Draws are those of `evaluate` with the seeds that follow; a second call finds them in the ledger."""
    (plain,) = load_tasks(tiny_testbed.tasks, ["reverse"])
    settings = plain.settings.model_copy(update={"temperature": 1.5, "seed": 3})
    task = Task("reverse", {"test": plain.examples("test")[:12]}, settings)
    model = LanguageModel.load(open_weights(str(tiny_testbed.full["reverse"])))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        found = pass_until_task(model, task, ledger=ledger, passes=2, max_draws=6)
        draws = [evaluate([model], [task], ledger=ledger, seed=3 + d).scores(model.name, "reverse") for d in range(6)]
        again = pass_until_task(model, task, ledger=ledger, passes=2, max_draws=6)
    assert again == found
    for place, example in enumerate(task.examples("test")):
        passed = [d + 1 for d in range(6) if draws[d][place]]
        stopped = (2, passed[1], False) if len(passed) > 1 else (len(passed), 6, True)
        assert (found[example.id].passes, found[example.id].draws, found[example.id].censored) == stopped
    assert len({one.draws for one in found.values()}) > 1
    with pytest.raises(InputError, match="temperature 0"):
        pass_until_task(model, plain, ledger=Ledger(":memory:"))


# ---------------------------------------------------------------------- task scaling


def test_the_law_is_found_again_and_extrapolates() -> None:
    sizes = np.array([1e6, 3e6, 1e7, 3e7, 1e8])
    law = task_scaling(sizes, np.exp(-300 * sizes**-0.3))
    assert (law.a, law.c) == (pytest.approx(0.3), pytest.approx(300))
    assert law(1e10) == pytest.approx(math.exp(-300 * 1e10**-0.3))
    assert law.residual < 1e-12


def test_prediction_intervals_cover_the_law() -> None:
    draw = np.random.default_rng(4)
    sizes = np.array([1e6, 3e6, 1e7, 3e7, 1e8])
    true = np.exp(-60 * sizes**-0.25)
    covered = 0
    for _ in range(300):
        errors = 0.05 * true
        law = task_scaling(sizes, np.clip(true + errors * draw.standard_normal(5), 1e-6, 0.999), errors)
        low, high = law.predict(1e9)[1:]
        covered += low <= math.exp(-60 * 1e9**-0.25) <= high
    assert covered >= 0.93 * 300


@pytest.mark.parametrize(
    ("sizes", "rates", "said"),
    [
        ([1, 2], [0.1, 0.2], "there are fewer than 3 sizes"),
        ([1, 2, 3], [0.1, 0.2, 1.0], "a rate of 0 or 1"),
        ([1, 2, 3], [0.1, 0.2], "shape"),
        ([1, 1, 1], [0.1, 0.2, 0.3], "there are fewer than 3 sizes"),
    ],
)
def test_laws_that_cannot_be_fitted(sizes: list[float], rates: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        task_scaling(sizes, rates)


# ---------------------------------------------------------------------- learning curves


@pytest.mark.parametrize(("a", "b", "g"), [(0.1, 2.0, -0.5), (0.0, 1.0, -0.2), (0.3, 5.0, -1.0)])
def test_curves_are_found_again(a: float, b: float, g: float) -> None:
    sizes = np.array([10, 20, 50, 100, 200, 500, 1000.0])
    curve = learning_curve(sizes, a + b * sizes**g, kind="power")
    assert curve(10_000) == pytest.approx(a + b * 10_000**g, abs=2e-3)
    assert curve.residual < 1e-3


def test_shifted_and_fixed_curves() -> None:
    sizes = np.array([10, 20, 50, 100, 200, 500, 1000.0])
    shifted = learning_curve(sizes, 0.1 + 3 * (sizes + 40) ** -0.6, kind="shifted")
    assert shifted(5000) == pytest.approx(0.1 + 3 * 5040**-0.6, abs=5e-3)
    few = learning_curve([10, 100, 1000], 0.2 + np.array([10, 100, 1000.0]) ** -0.5)
    assert (few.kind, few.a, few.b) == ("fixed", pytest.approx(0.2), pytest.approx(1.0))


def test_the_stopping_rule() -> None:
    draw = np.random.default_rng(2)
    sizes = np.geomspace(20, 2000, 12)
    flat = learning_curve(sizes, 0.2 + 2 * sizes**-1.0 + 0.001 * draw.standard_normal(12))
    assert flat.advice(2000, 20_000, 0.01).stop
    falling = learning_curve(sizes, 2 * sizes**-0.2 + 0.001 * draw.standard_normal(12))
    advice = falling.advice(2000, 20_000, 0.01)
    assert not advice.stop
    true = 2 * (2000**-0.2 - 20_000**-0.2)
    assert advice.gain.lo <= true <= advice.gain.hi
    with pytest.raises(InputError, match="horizon"):
        flat.advice(2000, 1000, 0.01)


@pytest.mark.slow
def test_stopping_is_seldom_a_mistake() -> None:
    """Where going on would bring twice the threshold, the rule says stop in few of many noisy runs."""
    draw = np.random.default_rng(3)
    sizes = np.geomspace(20, 2000, 8)
    gain = 1.5 * (2000**-0.3 - 10_000**-0.3)
    stopped = 0
    for _ in range(15):
        curve = learning_curve(sizes, 0.1 + 1.5 * sizes**-0.3 + 0.004 * draw.standard_normal(8))
        stopped += curve.advice(2000, 10_000, gain / 2).stop
    assert stopped <= 2


@pytest.mark.parametrize(
    ("sizes", "errors", "said"),
    [
        ([1, 2], [0.1, 0.2], "got 2 different sizes"),
        ([1, 2, 3], [0.1, 0.2], "shape"),
        ([0, 1, 2], [0.3, 0.2, 0.1], "must be above 0"),
    ],
)
def test_curves_that_cannot_be_fitted(sizes: list[float], errors: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        learning_curve(sizes, errors)


# ---------------------------------------------------------------------- metric choice


def made_table(rates: Sequence[float], *, length: int, together: bool, count: int = 300) -> OutcomeTable:
    """Models whose tokens are right at given rates: each token by itself, or all tokens of an answer together."""
    draw = np.random.default_rng(1)
    examples = [Example(str(i), f"{i}", ("x" * length,)) for i in range(count)]
    cells = {}
    for place, rate in enumerate(rates):
        outcomes = []
        for _ in range(count):
            right = np.full(length, draw.random() < rate) if together else draw.random(length) < rate
            detail = {"token_accuracy": float(right.mean()), "tokens": float(length)}
            detail["logprob"] = length * math.log(max(rate, 0.01))
            outcomes.append(Outcome(float(right.all()), None, detail))
        cells[f"m{place}", "t"] = TaskOutcomes(tuple(outcomes), 0)
    return OutcomeTable(cells, {"t": examples}, {f"m{i}": str(i) for i in range(len(rates))}, "test")


def test_a_mirage_is_called_one() -> None:
    """Tokens improve steadily; exact match of ten of them appears at once."""
    found = metric_choice(made_table([0.3, 0.5, 0.7, 0.98], length=10, together=False), "t")
    assert found.jump == ("m2", "m3")
    assert found.verdict == "the metric's"
    exact, expected = (
        next(c for c in found.curves if c.metric == name) for name in ("exact match", "expected exact match")
    )
    for seen, told in zip(exact.values, expected.values, strict=True):
        assert told.mean == pytest.approx(seen.mean, abs=0.08)


def test_a_real_jump_is_called_one() -> None:
    found = metric_choice(made_table([0.05, 0.06, 0.95, 0.96], length=10, together=True), "t")
    assert found.jump == ("m1", "m2")
    assert found.verdict == "the model's"


def test_no_jump_and_no_details() -> None:
    with pytest.raises(InputError, match="the same for all models"):
        metric_choice(made_table([0.0, 0.0, 0.0], length=3, together=True), "t")
    with pytest.raises(InputError, match="2 models"):
        metric_choice(made_table([0.1, 0.9], length=3, together=True), "t")
    bare = OutcomeTable(
        {(m, "t"): TaskOutcomes((Outcome(1.0),), 0) for m in "abc"},
        {"t": [Example("e1", "p", ("x",))]},
        dict.fromkeys("abc", "f"),
        "test",
    )
    with pytest.raises(InputError, match="a: example e1 has no token-level details"):
        metric_choice(bare, "t")
