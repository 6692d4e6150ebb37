"""What learning a task takes: operations counted by hand, the search for a learning rate, and NEVIS's measure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import rows, told
from transformers.pytorch_utils import Conv1D

from genepool.errors import InputError
from genepool.training.continual.compute import ComputeMeter
from genepool.training.continual.search import MARK, Trial, best_trial, search_rate
from genepool.training.learners import find_learner

SHORT = ("--steps", 6, "--every", 3, "--batch", 8, "--test", 6, "--quiet", "--lora", 2)


@pytest.mark.parametrize(
    ("layer", "inputs", "operations"),
    [
        (torch.nn.Linear(5, 3), torch.ones(2, 4, 5), 2 * 15 * 8),
        (Conv1D(3, 5), torch.ones(2, 4, 5), 2 * 15 * 8),
        # Two channels of 4 x 4 in, three out at 3 x 3 places.
        (torch.nn.Conv2d(2, 3, 2), torch.ones(7, 2, 4, 4), 2 * (3 * 2 * 2 * 2) * 9 * 7),
    ],
)
def test_operations_of_a_layer_by_hand(layer: Any, inputs: torch.Tensor, operations: int) -> None:
    meter = ComputeMeter()
    meter.watch(layer)
    with torch.no_grad():
        layer(inputs)
    assert meter.total == operations
    layer(inputs)
    # The pass, the gradient of the inputs, and that of the weight.
    assert meter.total == 4 * operations
    layer.requires_grad_(False)
    layer(inputs)
    assert meter.total == 5 * operations
    layer(inputs.clone().requires_grad_())
    assert meter.total == 7 * operations


def test_of_equal_scores_the_lower_loss_is_better() -> None:
    trials = [Trial(1.0, 0.5, 2.0, 1), Trial(2.0, 0.5, 1.0, 1), Trial(3.0, 0.4, 0.1, 1), Trial(4.0, 0.5, 1.0, 1)]
    assert best_trial(trials) == 1


def test_factors_of_a_search_begin_with_one_and_lie_within_the_span() -> None:
    experts = find_learner("experts", {"trials": 9, "span": 3})
    found = experts.trials(0, 1)
    assert found[0] == 1
    assert len(found) == len(set(found)) == 9
    assert all(1 / 3 <= one <= 3 for one in found)
    assert found == experts.trials(0, 1) != experts.trials(0, 2)
    assert find_learner("experts").trials(0, 1) == find_learner("replay").trials(0, 1) == []


def test_a_trial_that_was_changed_is_damaged(tmp_path: Path) -> None:
    place = tmp_path / "trials" / "0001"
    place.mkdir(parents=True)
    wrong = json.dumps({"schema": 1, "rate": 1, "score": 2, "loss": 1, "compute": 1})
    for text in ("no JSON", "[]", '{"schema": 1}', wrong):
        (place / MARK).write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            search_rate(tmp_path, [1.0], lambda *_: pytest.fail("it was taken again"))


@pytest.fixture
def learn(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(out: str, *options: Any) -> Any:
        named = [small_world / "tasks" / name for name in ("first", "grade")]
        base = ("--base", small_world / "base", "--out", tmp_path / out)
        return cli("train", *named, "--learner", "experts", *base, *SHORT, *options)

    return call


@pytest.mark.slow
def test_a_search_keeps_the_best_trial_and_counts_all_of_them(
    learn: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    rate = ("--learning-rate", 0.01)
    answer = learn("run", *rate, "--set", "trials=3", "--set", "span=5")
    assert answer.code == 0, answer.err
    run, said = tmp_path / "run", told(tmp_path / "run")
    for number, stage in enumerate(said["stages"], 1):
        folder = run / "tasks" / f"{number:04d}"
        trials = [json.loads((folder / "trials" / f"{at:04d}" / MARK).read_text()) for at in (1, 2, 3)]
        assert trials[0]["rate"] == pytest.approx(0.01)
        best = max(trials, key=lambda one: (one["score"], -one["loss"]))
        assert json.loads((folder / "task.json").read_text())["learning_rate"] == pytest.approx(best["rate"])
        assert stage["compute"] == sum(one["compute"] for one in trials)
        assert stage["facts"]["trials"] == [[one["rate"], one["score"]] for one in trials]
        # The chosen one, taken again, has its bits.
        chosen = folder / "trials" / f"{1 + trials.index(best):04d}"
        query = "SELECT step, digest FROM steps ORDER BY step"
        assert rows(chosen, query) == rows(folder, query)
        # Nothing but the task's own validation examples was looked at.
        assert rows(chosen, "SELECT count(*) FROM validations")[0][0] == 3
    errors = [1 - said["matrix"][at][at] for at in (0, 1)]
    assert [stage["error"] for stage in said["stages"]] == pytest.approx(errors)
    assert said["mean_error"] == pytest.approx(sum(errors) / 2)
    assert said["total_compute"] == sum(stage["compute"] for stage in said["stages"])
    assert cli("verify-run", run, "--step", 8, "--quiet").code == 0
    # Called again nothing is taken again.
    assert learn("run", *rate, "--set", "trials=3", "--set", "span=5").code == 0
    assert told(run) == said


@pytest.mark.slow
def test_what_learning_took_is_said_and_grows_with_the_steps(
    learn: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    answer = learn("run", "--learning-rate", 0.01)
    assert "error right after each task" in answer.out
    assert "operations" in answer.out
    said = told(tmp_path / "run")
    assert learn("longer", "--learning-rate", 0.01, "--steps", 12).code == 0
    longer = told(tmp_path / "longer")
    ratios = [other["compute"] / one["compute"] for one, other in zip(said["stages"], longer["stages"], strict=True)]
    assert ratios == pytest.approx([2, 2], rel=0.02)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "all operations" in page
    # A record of an older version has no costs, and its page says none.
    for stage in said["stages"]:
        del stage["error"], stage["compute"]
    (tmp_path / "run" / "train.json").write_text(json.dumps(said))
    assert cli("report", tmp_path / "run", "--out", tmp_path / "old.html", "--quiet").code == 0
    assert "all operations" not in (tmp_path / "old.html").read_text()


def test_a_search_needs_validation_examples(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    import shutil

    bare = shutil.copytree(small_world / "tasks" / "grade", tmp_path / "bare")
    (bare / "valid.jsonl").unlink()
    answer = cli(
        "train", small_world / "tasks" / "first", bare, "--learner", "experts", "--set", "trials=2", "--base",
        small_world / "base", "--out", tmp_path / "run", *SHORT,
    )  # fmt: skip
    assert answer.code == 2
    assert "has no validation examples" in answer.err
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_the_steps_of_a_search(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    recipe = {
        "train": 1, "base": str(small_world / "base"), "learner": "experts", "steps": 5, "options": {"trials": 3},
        "tasks": [str(small_world / "tasks" / name) for name in ("grade", "first")],
    }  # fmt: skip
    file = tmp_path / "order.yaml"
    file.write_text(json.dumps(recipe))
    said = json.loads(cli("plan", file, "--json").out)
    assert [stage["steps"] for stage in said["stages"]] == [20, 20]
    assert [stage["trials"] for stage in said["stages"]] == [3, 3]
