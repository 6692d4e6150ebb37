"""Tasks that are mixed by shares, and portions of their examples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from training_runs import result_bytes, rows, told

from genepool.errors import InputError
from genepool.tasks import Example, Task
from genepool.training import run as running
from genepool.training.examples import TrainingExamples


def tasks(**sizes: int) -> list[Task]:
    return [
        Task(name, {"train": [Example(str(at), f"{name}{at}", ("a",)) for at in range(size)]})
        for name, size in sizes.items()
    ]


@given(seed=st.integers(0, 2**32), step=st.integers(0, 10**9), share=st.floats(0.05, 0.95))
def test_the_examples_of_a_step_belong_to_the_seed_and_its_number(seed: int, step: int, share: float) -> None:
    made = [
        TrainingExamples(tasks(many=90, few=30), seed=seed, valid=1, shares={"many": share, "few": 1 - share})
        for _ in range(2)
    ]
    # Whatever was asked for before.
    made[1].at(step + 1, 8)
    found = [[lesson.example.prompt for lesson in one.at(step, 16)] for one in made]
    assert found[0] == found[1]
    assert len(set(found[0])) == 16


def test_tasks_come_as_often_as_their_shares_say() -> None:
    lessons = TrainingExamples(tasks(many=90, few=10, none=5), seed=3, valid=1, shares={"many": 1, "few": 3, "none": 0})
    drawn = Counter(lesson.task.name for step in range(400) for lesson in lessons.at(step, 10))
    # Four standard deviations of 4000 draws.
    assert drawn["few"] == pytest.approx(3000, abs=110)
    assert set(drawn) == {"many", "few"}
    every = {lesson.example.prompt for step in range(400) for lesson in lessons.at(step, 10)}
    assert len(every) == 100


@given(seed=st.integers(0, 2**32), part=st.floats(0.001, 1))
def test_a_portion_is_chosen_by_the_seed_and_never_empty(seed: int, part: float) -> None:
    lessons = TrainingExamples(tasks(many=50, whole=7), seed=seed, valid=1, portions={"many": part})
    counts = Counter(lesson.task.name for lesson in lessons.train)
    assert counts == {"many": max(1, round(50 * part)), "whole": 7}
    other = TrainingExamples(tasks(whole=7, many=50), seed=seed, valid=1, portions={"many": part})
    assert {one.example.prompt for one in lessons.train} == {one.example.prompt for one in other.train}


def test_a_task_with_a_share_and_without_lessons_is_refused() -> None:
    equal = Task("equal", {"train": [Example("1", "p", ("a",), rejected=("a",))]})
    pair = Task("pair", {"train": [Example("1", "p", ("a",), rejected=("b",))]})
    with pytest.raises(InputError, match="nothing to learn from"):
        TrainingExamples([equal, pair], seed=0, valid=1, pairs=True, shares={"equal": 1, "pair": 1})
    assert TrainingExamples([equal, pair], seed=0, valid=1, pairs=True, shares={"equal": 0, "pair": 1}).at(0, 2)


@pytest.fixture
def mixed(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(out: str, **keys: Any) -> Any:
        recipe = {
            "train": 1, "base": str(small_world / "base"), "steps": 12, "every": 4, "batch": 8, "learning_rate": 0.02,
            "tasks": [str(small_world / "tasks" / name) for name in ("first", "grade")], **keys,
        }  # fmt: skip
        file = tmp_path / f"{out}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        return cli("train", file, "--out", tmp_path / out, "--quiet")

    return call


@pytest.mark.slow
def test_a_mix_of_tasks_is_trained_counted_and_gone_on_with(
    mixed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"shares": {"first": 1, "grade": 3}, "portions": {"first": 0.25}}
    answer = mixed("whole", **asked)
    assert answer.code == 0, answer.err
    drawn = dict(rows(tmp_path / "whole", "SELECT task, count(*) FROM examples GROUP BY task"))
    assert told(tmp_path / "whole")["drawn"] == drawn
    assert drawn["grade"] > drawn["first"] > 0
    assert told(tmp_path / "whole")["examples"]["train"] == 12 + 48
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 6:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert mixed("stopped", **asked).code == 130
    assert mixed("stopped", **asked).code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert "shares.grade was 3" in mixed("stopped", **{**asked, "shares": {"first": 1, "grade": 2}}).err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"shares": {"first": 1}}, "run.yaml:shares: the task 'grade' has no share"),
        ({"shares": {"first": 1, "grade": 1, "graed": 1}}, "'graed' is no task of this training. Did you mean 'grade'"),
        ({"portions": {"frist": 0.5}}, "run.yaml:portions: 'frist' is no task of this training"),
        ({"shares": {"first": 0, "grade": 0}}, "one of them above 0"),
        ({"shares": {"first": -1, "grade": 2}}, "shares must be 0 or more"),
        ({"portions": {"first": 0}}, "a portion must be above 0"),
    ],
)
def test_shares_that_cannot_be_are_refused_in_one_line(
    mixed: Callable[..., Any], tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    answer = mixed("run", **keys)
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "run").exists()


def test_a_plan_says_what_is_used_of_each_task(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for split in ("train", "valid", "test"):
        (texts / f"{split}.txt").write_text("abc " * 30)
    (texts / "task.yaml").write_text("window: 12\n")
    recipe = {
        "train": 1, "base": str(small_world / "base"), "batch": 8, "average": {"decay": 0.99},
        "tasks": [str(small_world / "tasks" / "first"), str(texts)], "portions": {"first": 0.25},
        "shares": {"first": 1, "texts": 3},
    }  # fmt: skip
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("plan", tmp_path / "mix.yaml")
    assert answer.code == 0, answer.err
    assert "first: 12 examples, 25.00% of its training split; 2.0 of the 8 in a step, on average" in answer.out
    assert "texts: 10 texts of at most 12 characters; 6.0 of the 8 in a step, on average" in answer.out
    assert "a running mean of the weights is written (decay 0.99)" in answer.out
    planned = {}
    for name, changes in {"mix": {}, "weights": {"average": None}, "sizes": {"shares": None}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**recipe, **changes}))
        planned[name] = json.loads(cli("plan", tmp_path / f"{name}.yaml", "--json").out)
    # A mean is one more float32 copy of what is trained.
    assert planned["mix"]["trained"] - planned["weights"]["trained"] == 4 * planned["mix"]["parameters"]
    assert [one["each_step"] for one in planned["sizes"]["tasks"]] == [8 * 12 / 22, 8 * 10 / 22]
