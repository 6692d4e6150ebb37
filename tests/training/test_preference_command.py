"""`genepool train --objective dpo` and the other objectives that compare, as they are typed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import rows, told

from genepool.tasks import open_model
from genepool.training import Training, load_training
from genepool.training.memory import plan_memory
from genepool.training.opened_training import OpenedTraining
from genepool.training.session import Session
from genepool.training.trained import Reference
from genepool.weights import open_weights

SLOW = pytest.mark.slow
SHORT = ("--lora", 2, "--steps", 30, "--every", 10, "--batch", 8, "--quiet")


@pytest.mark.slow
def test_a_model_learns_to_prefer(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    pairs, base, run = small_world / "pairs" / "first", small_world / "base", tmp_path / "run"
    answer = cli(
        "train", pairs, "--base", base, "--objective", "dpo", "--set", "beta=0.2", "--learning-rate", 0.01,
        "--out", run, *SHORT, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["objective"], found["options"]) == ("dpo", {"beta": 0.2, "label_smoothing": 0.0})
    assert found["equal_pairs"] == 0
    first, last = found["validations"][0], found["validations"][-1]
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)  # log 2: nothing is preferred yet
    assert last["score"] > 0.8
    assert last["loss"] < 0.6
    margins = [row[0] for row in rows(run, "SELECT avg(margin) FROM examples GROUP BY step ORDER BY step")]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 0.5
    assert rows(run, "SELECT count(*) FROM examples WHERE reward IS NULL OR length < 2 OR kl IS NOT NULL") == [(0,)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["margin"] for line in lines if "margin" in line] == pytest.approx(margins)
    assert "<h3>Margin</h3>" in (run / "report.html").read_text()
    assert cli("verify-run", run, "--step", 13, "--quiet").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["ipo"],
        pytest.param(["dpo_norm", "--full"], marks=SLOW),
        pytest.param(["dpo", "--set", "label_smoothing=0.1"], marks=SLOW),
    ],
)
def test_the_other_preferences_run(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, options: list[Any]
) -> None:
    form = [] if "--full" in options else ["--lora", 2]
    # One file, which is split, does as well as a folder.
    pairs, file = small_world / "pairs" / "first", tmp_path / "pairs.jsonl"
    file.write_text("".join((pairs / f"{split}.jsonl").read_text() for split in ("train", "valid", "test")))
    answer = cli(
        "train", file, "--base", small_world / "base", "--objective", *options, *form,
        "--out", tmp_path / "run", "--steps", 2, "--batch", 4, "--micro-batch", 3, "--test", 4, "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    first = rows(tmp_path / "run", "SELECT loss FROM steps WHERE step = 1")
    expected = {"ipo": 25.0, "dpo_norm": 0.6931, "dpo": 0.6931}[options[0]]
    assert first[0][0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("form", ["lora", "full"])
def test_the_reference_is_the_parent_with_its_adapter(
    train: Callable[..., Any], small_world: Path, tmp_path: Path, form: str
) -> None:
    assert train("parent", "--lora", 2, "--steps", 5, "--test", 4).code == 0
    parent = f"{small_world / 'base'}+{tmp_path / 'parent' / 'adapter'}"
    recipe = Training(base=parent, tasks=(str(small_world / "pairs" / "first"),), objective="dpo", form=form)  # type: ignore[arg-type]
    opened = OpenedTraining.open(recipe, others=False)
    session = Session(recipe, open_model(opened.base).load(), opened.base, opened.lessons)  # type: ignore[arg-type]
    ((batch, _),) = session.trainer.encoded(opened.lessons.valid[:4])
    alone = open_model(open_weights(parent)).load().answer_logits(batch).detach()
    with torch.no_grad():
        for parameter in session.trained.parameters().values():
            parameter += 0.1
        assert not torch.allclose(session.model.answer_logits(batch), alone, atol=0.1)
        assert torch.allclose(Reference(session.trained).answer_logits(batch), alone, atol=1e-5)
        assert not torch.allclose(session.model.answer_logits(batch), alone, atol=0.1)
    assert all(one.requires_grad for one in session.trained.parameters().values())


def test_the_memory_of_a_frozen_copy_and_of_both_sides_is_planned(small_world: Path) -> None:
    def planned(**settings: Any) -> Any:
        tasks = (str(small_world / "pairs" / "first"),)
        recipe = Training(base=str(small_world / "base"), tasks=tasks, **settings)
        return plan_memory(OpenedTraining.open(recipe, others=False))

    plain, pairs, copied = planned(), planned(objective="dpo"), planned(objective="dpo", form="full")
    assert (pairs.weights, pairs.activations) == (plain.weights, 2 * plain.activations)
    assert copied.weights == 2 * plain.weights


def test_pairs_that_are_alike_are_counted_and_answers_alone_are_refused(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    task = tmp_path / "letters"
    shutil.copytree(small_world / "pairs" / "first", task)
    with (task / "train.jsonl").open("a") as file:
        file.write('{"prompt": "fab=", "chosen": "a", "rejected": "a"}\n')
    more = ("--base", small_world / "base", "--objective", "dpo", "--steps", 1, "--batch", 2, "--test", 2)
    answer = cli("train", task, "--out", tmp_path / "run", *more)
    assert answer.code == 0, answer.err
    assert "1 pairs are left out" in answer.err
    assert told(tmp_path / "run")["equal_pairs"] == 1
    answer = cli("train", small_world / "tasks" / "first", "--out", tmp_path / "other", *more)
    assert answer.code == 2
    assert "train.jsonl:1: has no rejected answer" in answer.err
    assert not (tmp_path / "other").exists()


WRONG: dict[str, tuple[list[Any], str]] = {
    "an unknown option": (["--set", "betta=1"], "--set betta: unknown key 'betta'. Did you mean 'beta'?"),
    "a wrong value": (["--set", "beta=-1"], "(it says -1). The page reference/training of the documentation"),
    "no teacher": (["--objective", "gkd"], "needs a `teacher`. Name a model with --teacher"),
    "no pair of key and value": (["--set", "beta"], "--set: got 'beta'"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_option_of_an_objective_is_one_line(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, case: str
) -> None:
    options, said = WRONG[case]
    pairs, base = small_world / "pairs" / "first", small_world / "base"
    answer = cli("train", pairs, "--base", base, "--objective", "dpo", "--out", tmp_path / "run", *options)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_before_the_first_step_does_not_blame_the_learning_rate(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    pairs, base = small_world / "pairs" / "first", small_world / "base"
    huge = ("--objective", "dpo", "--set", "beta=1e308", "--steps", 1, "--batch", 2, "--test", 2, "--quiet")
    answer = cli("train", pairs, "--base", base, "--out", tmp_path / "run", *huge)
    assert answer.code == 2
    assert "step 0 is not a finite number" in answer.err
    assert "learning rate" not in answer.err
    assert "options of the objective" in answer.err


def test_a_training_file_says_the_options(small_world: Path, tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text(
        f"train: 1\nbase: {small_world / 'base'}\ntasks: [a]\nobjective: dpo\noptions: {{label_smoothing: 0.1}}\n"
    )
    assert load_training(file).made_objective().options.model_dump() == {"beta": 0.1, "label_smoothing": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", ["gkd", *(pytest.param(one, marks=SLOW) for one in ("muscle", "any_to_any", "lwf"))]
)
def test_what_compares_with_others_learns_from_them(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, objective: str
) -> None:
    teacher = [] if objective == "lwf" else ["--teacher", small_world / "other"]
    options = ["--set", "own=0.5"] if objective == "gkd" else []
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", small_world / "base", "--objective", objective, *teacher,
        *options, "--learning-rate", 0.005, "--test", 4, "--out", tmp_path / "run", *SHORT,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    losses = [one["loss"] for one in told(tmp_path / "run")["validations"]]
    assert min(losses[1:]) < losses[0]
    if objective == "gkd":
        # What the model writes is longer or shorter than the answers, which have two tokens each.
        lengths = [row[0] for row in rows(tmp_path / "run", "SELECT length FROM examples")]
        assert 0.2 < sum(length != 2 for length in lengths) / len(lengths) < 0.6
        assert cli("verify-run", tmp_path / "run", "--step", 12, "--quiet").code == 0
