"""Samplers: each does what its definition says, and a training that observed goes on to the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_runs import result_bytes, rows, told

from genepool.training.journal import ExampleRow
from genepool.training.samplers import Arms, absolute_advantages, make_sampler, samplers
from genepool.training.samplers.power_law import PowerLaw
from genepool.training.samplers.sec import Sec
from genepool.training.samplers.skill_it import SkillIt

ARMS = Arms(("a", "b", "c"), (30, 20, 10), 0)


def seen(losses: dict[str, float], rewards: Sequence[float] = ()) -> list[ExampleRow]:
    """An example of each task with its loss; or samples of one prompt of each with rewards."""
    if not rewards:
        return [ExampleRow(name, f"{name}1", loss) for name, loss in losses.items()]
    return [
        ExampleRow(name, "p", 0.0, numbers={"reward": one * loss}) for name, loss in losses.items() for one in rewards
    ]


# `compatible` chooses by scores that stand before the first step: tests of its own look at it.
OF_TASKS = sorted(name for name, kind in samplers().items() if not kind.alone and name != "compatible")


@pytest.mark.parametrize("name", OF_TASKS)
@given(step=st.integers(0, 1000), size=st.integers(1, 64), losses=st.lists(st.floats(0, 5), min_size=3, max_size=3))
def test_counts_add_up_and_are_a_function_of_what_was_observed(
    name: str, step: int, size: int, losses: list[float]
) -> None:
    made = [make_sampler(name, {}, ARMS) for _ in range(2)]
    for number in range(step, step + 3):
        for one in made:
            one.observe_rows(number, seen(dict(zip("abc", losses, strict=True)), (0.0, 1.0)))
    first, second = (one.counts(step + 3, size) for one in made)
    assert first.sum() == size
    assert (first >= 0).all()
    assert first.tolist() == second.tolist()


def test_stratified_gives_equal_parts_in_turn() -> None:
    sampler = make_sampler("stratified", {}, ARMS)
    counts = np.array([sampler.counts(step, 8) for step in range(6)])
    assert counts.max() - counts.min() <= 1
    assert counts.sum(0).tolist() == [16, 16, 16]


def test_uniform_follows_sizes() -> None:
    sampler = make_sampler("uniform", {}, ARMS)
    share = sum(sampler.counts(step, 60) for step in range(50)) / 3000
    assert np.allclose(share, [0.5, 1 / 3, 1 / 6], atol=0.04)


def test_skill_it_by_hand() -> None:
    options = {"eta": 0.5, "checkpoint": 2, "window": 2, "edges": [["a", "c"]]}
    sampler = make_sampler("skill_it", options, ARMS)
    assert isinstance(sampler, SkillIt)
    assert np.allclose(sampler.chances(), 1 / 3)
    for step, losses in enumerate([(1.0, 2.0, 4.0), (3.0, 2.0, 2.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)]):
        sampler.observe_rows(step, seen(dict(zip("abc", losses, strict=True))))
    # Checkpoints (2, 2, 3) and (1, 1, 1); a also counts half of c.
    logits = 0.5 * np.array([3 + 0.5 * 4, 3, 4])
    assert np.allclose(sampler.chances(), np.exp(logits) / np.exp(logits).sum())


@pytest.mark.parametrize(("undrawn", "b"), [("keep", 0.5), ("decay", 0.25)])
def test_sec_by_hand(undrawn: str, b: float) -> None:
    sampler = make_sampler("sec", {"undrawn": undrawn, "temperature": 0.5}, ARMS)
    assert isinstance(sampler, Sec)
    # One of two right: both advantages are 1. All right: none.
    sampler.observe_rows(0, seen({"a": 0.0, "b": 1.0}, (0.0, 1.0)))
    assert sampler.values == [0.0, 0.5, 0.0]
    sampler.observe_rows(1, seen({"a": 1.0, "c": 1.0}, (0.0, 1.0)))
    assert sampler.values == [0.5, b, 0.5]
    logits = np.array(sampler.values) / 0.5
    assert np.allclose(sampler.chances(), np.exp(logits) / np.exp(logits).sum())


@given(st.lists(st.integers(0, 1), min_size=2, max_size=8))
def test_advantages_of_binary_rewards(rewards: list[int]) -> None:
    found = absolute_advantages([ExampleRow("a", "p", 0.0, numbers={"reward": float(one)}) for one in rewards])
    p = sum(rewards) / len(rewards)
    assert sum(found) / len(found) == pytest.approx(2 * math.sqrt(p * (1 - p)))


def test_power_law_by_hand_and_without_quotas() -> None:
    sampler = make_sampler("power_law", {"exponent": 2.0}, ARMS)
    assert isinstance(sampler, PowerLaw)
    assert np.allclose(sampler.chances(0), 1 / 3)
    sampler.observe_rows(0, seen({"a": 1.0}))
    sampler.observe_rows(1, seen({"b": 1.0}))
    # Lags in step 4: a 4, b 3, c 5 (it counts as practised before step 0).
    wanted = np.array([4.0, 3.0, 5.0]) ** -2
    assert np.allclose(sampler.chances(4), wanted / wanted.sum())
    assert sorted(sampler.counts(4, 16).tolist()) == [0, 0, 16]


def test_the_control_shuffles_what_was_observed() -> None:
    orders = set()
    for step in range(20):
        sampler = make_sampler("sec", {"permuted": True, "rate": 1.0}, ARMS)
        assert isinstance(sampler, Sec)
        sampler.observe_rows(step, seen({"a": 0.0, "b": 1.0, "c": 0.0}, (0.0, 1.0)))
        assert sorted(sampler.values) == [0.0, 0.0, 1.0]
        orders.add(tuple(sampler.values))
    assert len(orders) == 3


SKILL_IT = ("--sampler", "skill_it", "--set", "sampler.checkpoint=2", "--set", "sampler.edges=[[first, grade]]")


@pytest.mark.slow
def test_a_sampled_training_says_what_was_drawn_and_its_steps_can_be_taken_again(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    tasks = [small_world / "tasks" / one for one in ("first", "grade")]
    answer = train("run", *SKILL_IT, "--steps", 8, "--every", 4, "--test", 2, tasks=tasks)
    assert answer.code == 0, answer.err
    found = told(tmp_path / "run")
    assert found["sampler"] == "skill_it"
    assert sum(found["drawn"].values()) == 8 * 16
    counts = rows(tmp_path / "run", "SELECT task, count(*) FROM examples GROUP BY task ORDER BY task")
    assert dict(counts) == found["drawn"]
    assert "<h3>Drawn of grade</h3>" in (tmp_path / "run" / "report.html").read_text()
    # From the state of step 4, after what was observed until then.
    assert cli("verify-run", tmp_path / "run", "--step", 7).code == 0


@pytest.mark.slow
def test_a_sampled_training_that_was_stopped_goes_on_to_the_same_bits(
    train: Callable[..., Any], small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genepool.training.run import Run

    tasks = [small_world / "tasks" / one for one in ("first", "grade")]
    typed = (*SKILL_IT, "--steps", 10, "--every", 4, "--test", 2)
    assert train("whole", *typed, tasks=tasks).code == 0
    after = Run._after

    def stopped(self: Run, step: Any, *others: Any) -> bool:
        if step.number == 7:
            raise KeyboardInterrupt
        return after(self, step, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_after", stopped)
        assert train("parts", *typed, tasks=tasks).code == 130
    assert train("parts", *typed, tasks=tasks).code == 0
    assert result_bytes(tmp_path / "parts") == result_bytes(tmp_path / "whole")
    assert told(tmp_path / "parts")["drawn"] == told(tmp_path / "whole")["drawn"]


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 2])
def test_sec_learns_from_the_rewards_of_samples(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path, iterations: int
) -> None:
    run = tmp_path / "run"
    answer = cli(
        "train", small_world / "tasks" / "first", small_world / "tasks" / "grade", "--base", half_known, "--objective",
        "grpo", "--sampler", "sec", "--set", "sampler.temperature=0.1", "--set", f"iterations={iterations}", "--steps",
        8, "--every", 4, "--batch", 8, "--lora", 2, "--set", "samples=4", "--test", 2, "--quiet", "--out", run,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    # One task is half known, and there is nothing to learn from the other.
    drawn = told(run)["drawn"]
    assert drawn["first"] > drawn.get("grade", 0)
    assert cli("verify-run", run, "--step", 6).code == 0
    shared = rows(run, "SELECT step, group_concat(example) FROM examples GROUP BY step ORDER BY step")
    if iterations == 2:
        assert [one[1] for one in shared[::2]] == [one[1] for one in shared[1::2]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "skil_it"], "there is no sampler 'skil_it'. Did you mean 'skill_it'?"),
        (["--sampler", "uniform"], "error: --sampler: uniform chooses among tasks, and there is one"),
        (["--sampler", "sec"], "the sampler sec learns from rewards, which the objective likelihood has not"),
        (
            ["--sampler", "skill_it", "--set", "sampler.eta=0"],
            "error: --set sampler.eta: input should be greater",
        ),
        (["--set", "sampler.eta=1"], "`sampler_options` are of a `sampler`, and there is none"),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    train: Callable[..., Any], tmp_path: Path, options: list[Any], said: str
) -> None:
    answer = train("run", *options)
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "run").exists()
