"""`genepool train` as it is typed: what comes out, what is told, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import QUICK, result_bytes, rows, told

from genepool.tasks import metrics
from genepool.weights import open_weights


@pytest.mark.slow
@pytest.mark.parametrize("form", [["--lora", 4], ["--full", "--learning-rate", 0.003]], ids=["lora", "full"])
def test_a_model_learns_a_task_and_is_told_what_it_gained_and_forgot(
    train: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path, form: list[Any]
) -> None:
    answer = train("run", *form, "--steps", 120, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["schema"] == 1
    assert found["target"] == told(tmp_path / "run")["target"]
    (target,) = found["target"]
    assert target["task"] == "first"
    assert target["n"] == 16
    assert target["after"] >= target["before"] + 0.5
    difference = target["difference"]
    assert difference["lo"] <= difference["mean"] <= difference["hi"]
    assert difference["mean"] == pytest.approx(target["after"] - target["before"])
    assert [row["task"] for row in found["others"]] == ["grade"]
    gained = [flip for flip in found["flips"] if flip["task"] == "first" and flip["kind"] == "gained"]
    assert len(gained) == target["gained"]
    assert all(flip["prompt"].startswith("f") for flip in gained)
    assert found["base"]["fingerprint"] == open_weights(small_world / "base").fingerprint()
    tuned = f"{small_world / 'base'}+{tmp_path / 'run' / found['result']}"
    assert open_weights(tuned).fingerprint() == found["fingerprint"]
    again = cli("evaluate", tuned, "--tasks", small_world / "tasks" / "first", "--json")
    assert json.loads(again.out)["results"][0]["mean"] == pytest.approx(target["after"])
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_an_adapter_is_one_that_peft_loads(train: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert train("run", "--lora", 2).code == 0
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(small_world / "base"), tmp_path / "run/adapter"
    )
    merged = model.merge_and_unload().state_dict()
    ours = open_weights(f"{small_world / 'base'}+{tmp_path / 'run' / 'adapter'}")
    for name in ours.names():
        assert torch.allclose(merged[name], ours.read(name), atol=1e-6), name


@pytest.mark.slow
def test_the_record_has_every_example_of_every_step(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("run", "--steps", 12, "--every", 5).code == 0
    counts = rows(tmp_path / "run", "SELECT step, count(*), sum(kept) FROM examples GROUP BY step")
    assert counts == [(step, 16, 16) for step in range(1, 13)]
    assert [row[0] for row in rows(tmp_path / "run", "SELECT step FROM validations ORDER BY step")] == [0, 5, 10, 12]
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in metrics if "valid_loss" in line] == [0, 5, 10, 12]
    # Rounds are shuffled: three steps of 16 see each of 48 examples once.
    seen = rows(tmp_path / "run", "SELECT example FROM examples WHERE step <= 3")
    assert len(set(seen)) == 48


@pytest.mark.slow
def test_micro_batches_and_checkpoints_change_no_more_than_the_rounding(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    for name, options in {"whole": [], "parts": ["--micro-batch", 5], "again": ["--activation-checkpoints"]}.items():
        assert train(name, "--steps", 5, *options).code == 0
    losses = {
        name: [row[0] for row in rows(tmp_path / name, "SELECT loss FROM steps ORDER BY step")]
        for name in ("whole", "parts", "again")
    }
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-4)
    assert losses["again"] == pytest.approx(losses["whole"], rel=1e-4)


@pytest.mark.slow
def test_training_stops_early_and_writes_the_best_state(train: Callable[..., Any], tmp_path: Path) -> None:
    answer = train("run", "--lora", 2, "--learning-rate", 3.0, "--steps", 400, "--every", 2, "--patience", 2)
    assert answer.code == 0, answer.err
    found = told(tmp_path / "run")
    assert found["stopped_early"]
    assert found["steps"] < 400
    best = min(found["validations"][1:], key=lambda one: one["loss"])
    assert found["best_step"] == best["step"] < found["steps"]


@pytest.mark.slow
def test_a_training_file_says_the_same(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert train("typed", "--lora", 2).code == 0
    shutil.copytree(small_world / "tasks", tmp_path / "tasks")
    text = (
        f"train: 1\nbase: {small_world / 'base'}\ntasks: [tasks/first]\nlora: {{rank: 2}}\nsteps: 40\nevery: 10\n"
        "learning_rate: 0.02\nbatch: 16\n"
    )
    (tmp_path / "training.yaml").write_text(text)
    answer = cli("train", tmp_path / "training.yaml", "--out", tmp_path / "read", "--quiet")
    assert answer.code == 0, answer.err
    assert result_bytes(tmp_path / "read") == result_bytes(tmp_path / "typed")


@pytest.mark.slow
def test_gates_decide_the_exit(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("gates:\n  - {task: first, measure: difference, at_least: 0.99}\n")
    (tmp_path / "easy.yaml").write_text("gates:\n  - {task: first, measure: difference, at_least: -1}\n")
    assert train("run", "--steps", 1, "--gate", tmp_path / "easy.yaml").code == 0
    assert train("run", "--steps", 1, "--gate", tmp_path / "gate.yaml").code == 1


@pytest.mark.slow
def test_a_training_that_forgets_too_much_exits_with_1(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    command = ("train", small_world / "tasks" / "grade", "--base", half_known, "--out", tmp_path / "run", *QUICK)
    (tmp_path / "gate.yaml").write_text("forgets: 0.02\n")
    answer = cli(*command, "--gate", tmp_path / "gate.yaml")
    assert answer.code == 1
    assert "1 of 2 gates do not hold" in answer.err
    assert [row["task"] for row in told(tmp_path / "run")["others"] if row["difference"]["lo"] < -0.02] == ["first"]
    (tmp_path / "gate.yaml").write_text("forgets: 1\n")
    assert cli(*command, "--gate", tmp_path / "gate.yaml").code == 0


BAD: dict[str, tuple[list[Any], str]] = {
    "rank and full": (["--lora", 2, "--full"], "contradicts --lora"),
    "no objective": (["--objective", "nonsense"], "nonsense"),
    "a teacher for nothing": (["--teacher", "base"], "teacher"),
    "no teacher": (["--objective", "distance"], "teacher"),
    "a rate of none": (["--learning-rate", -1], "--learning-rate"),
    "no fork": (["--fork", "nowhere"], "nowhere"),
    "no others": (["--others", "nowhere"], "nowhere"),
    "no gate": (["--gate", "nowhere.yaml"], "nowhere.yaml"),
    "no device": (["--device", "nonsense"], "nonsense"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_wrong_options_are_one_line_and_write_nothing(train: Callable[..., Any], tmp_path: Path, case: str) -> None:
    options, said = BAD[case]
    answer = train("run", *options)
    assert answer.code == 2, answer.err
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "train.json").exists()


def test_what_cannot_be_learned_from_is_refused(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "a", "answer": "b"}\n')
    empty = tmp_path / "empty"
    shutil.copytree(small_world / "tasks" / "first", empty)
    (empty / "train.jsonl").unlink()
    long = tmp_path / "long"
    shutil.copytree(small_world / "tasks" / "first", long)
    with (long / "train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "too-long", "prompt": "f", "answer": "a" * 60}) + "\n")
    pattern = tmp_path / "pattern"
    shutil.copytree(small_world / "tasks" / "first", pattern)
    (pattern / "task.yaml").write_text("metric: regex\n")
    for place, said in (
        (few, "too few examples"),
        (empty, "no training examples"),
        (long, "too-long"),
        (pattern, "its answers are not texts"),
        (tmp_path / "nowhere", "nowhere"),
        (small_world / "tasks", "holds 2 tasks"),
    ):
        answer = train("run", "--steps", 4, tasks=[place])
        assert answer.code == 2, answer.err
        assert said in answer.err
        assert not (tmp_path / "run" / "adapter").exists()


def test_a_loss_that_is_no_number_keeps_the_last_good_state(train: Callable[..., Any], tmp_path: Path) -> None:
    answer = train("run", "--full", "--learning-rate", 1e30, "--every", 1)
    assert answer.code == 2
    assert "is not a finite number" in answer.err
    assert "learning rate" in answer.err
    assert (tmp_path / "run" / "run.sqlite").is_file()
    assert not (tmp_path / "run" / "skill.safetensors").exists()


@pytest.mark.slow
def test_the_other_options_are_heard(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    task, base, out = small_world / "tasks" / "first", small_world / "base", tmp_path / "run"
    answer = cli(
        "train", task, "--base", base, "--out", out, "--objective", "distance", "--teacher", small_world / "other",
        "--steps", 4, "--batch", 8, "--micro-batch", 4, "--every", 2, "--patience", 0, "--learning-rate", 0.01,
        "--lora", 3, "--pack", "--activation-checkpoints", "--others", small_world / "tasks" / "grade", "--test", 5,
        "--ledger", tmp_path / "mine.sqlite", "--seed", 7, "--threads", 1, "--device", "cpu", "--dtype", "float32",
        "--allow-pickle", "--overwrite", "--json", "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["objective"], found["steps"], found["seed"]) == ("distance", 4, 7)
    assert [row["n"] for row in (*found["target"], *found["others"])] == [5, 5]
    assert (tmp_path / "mine.sqlite").is_file()
    assert found["examples"]["train"] == 48
    steps = rows(out, "SELECT step, count(*) FROM examples GROUP BY step")
    assert steps == [(step, 8) for step in range(1, 5)]
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 32)
    assert cli("verify-run", out, "--step", 3, "--device", "cpu", "--allow-pickle", "--json", "--quiet").code == 0
    again = cli("train", task, "--base", base, "--out", tmp_path / "full", "--full", "--steps", 1, "--quiet",
                "--gate", tmp_path / "none.yaml")  # fmt: skip
    assert again.code == 2
    forked = cli("train", task, "--base", base, "--out", tmp_path / "on", "--fork", out, "--steps", 1, "--lora", 3)
    assert forked.code == 0, forked.err


@pytest.mark.slow
def test_python_tasks_beside_are_run_only_when_named(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "from genepool.tasks import Example, callable_task\n"
        "task = callable_task('mine', lambda model, example: 1.0, [Example('1', 'a', ('b',))])\n"
    )
    task, base = small_world / "tasks" / "first", small_world / "base"
    line = ["train", task, "--base", base, "--out", tmp_path / "run", "--steps", 1, "--others", code]
    refused = cli(*line)
    assert refused.code == 2 and "mine.py" in refused.err  # noqa: PT018 - one fact
    assert cli("train", task, "--base", base, "--out", tmp_path / "run", "--steps", 1, "--others", code,
               "--trust-tasks", code).code == 0  # fmt: skip


@pytest.mark.slow
def test_a_metric_of_ones_own_judges_when_its_file_is_named(
    cli: Callable[..., Any],
    train: Callable[..., Any],
    small_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "_registry", dict(metrics.all_metrics()))
    code = (
        "from genepool.tasks.metrics import metric\n@metric('1')\ndef half(output, example, strip):\n    return 0.5\n"
    )
    (tmp_path / "half.py").write_text(code)
    task = shutil.copytree(small_world / "tasks" / "first", tmp_path / "tasks" / "first")
    (task / "task.yaml").write_text("metric: half\nmax_new_tokens: 4\n")
    refused = train("run", tasks=[task])
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "unknown metric 'half'" in refused.err
    assert "name it with --plugin" in refused.err
    assert not (tmp_path / "run").exists()
    plugin, base = tmp_path / "half.py", small_world / "base"
    answer = cli("train", task, "--base", base, "--out", tmp_path / "run", *QUICK, "--plugin", plugin)
    assert answer.code == 0, answer.err
    (target,) = told(tmp_path / "run")["target"]
    assert (target["before"], target["after"]) == (0.5, 0.5)


def test_a_plan_tells_the_memory_first(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    told = {}
    for name, more in {
        "lora": "lora: {rank: 4}", "larger": "lora: {rank: 8}", "full": "form: full", "half": "dtype: bfloat16",
        "fewer": "micro_batch: 4", "some": "lora: {targets: [q_proj]}", "again": "activation_checkpoints: true",
    }.items():  # fmt: skip
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"train: 1\nbase: {small_world / 'base'}\ntasks: [{small_world / 'tasks' / 'first'}]\n{more}\n")
        answer = cli("plan", file, "--json")
        assert answer.code == 0, answer.err
        told[name] = json.loads(answer.out)
    entries = sum(open_weights(small_world / "base").info(name).numel for name in open_weights(small_world / "base"))
    assert told["full"]["parameters"] == entries
    assert told["full"]["weights"] == 4 * entries == 2 * told["half"]["weights"]
    # Seven matrices a layer, of 32 and 48: each gives rank (rows + columns); keys and values have 16 rows.
    assert told["larger"]["parameters"] == 2 * told["lora"]["parameters"]
    assert told["some"]["parameters"] == 2 * 8 * (32 + 32)
    assert told["fewer"]["activations"] < told["lora"]["activations"] > told["again"]["activations"]
    assert told["lora"]["examples"] == {"train": 48, "valid": 12}
    for plan in told.values():
        parts = ("weights", "trained", "moments", "activations", "program")
        assert plan["total"] == sum(plan[part] for part in parts)
    shown = cli("plan", tmp_path / "lora.yaml")
    assert "fits" in shown.out
    assert "first" in shown.out
    assert cli("plan", tmp_path / "lora.yaml", "--all").code == 2


def test_a_plan_refuses_what_the_training_would(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    for target, said in (
        ("q_prj", "the model has no layer q_prj. Did you mean 'q_proj'?"),
        ("norm", "not a linear layer"),
    ):
        file.write_text(
            f"train: 1\nbase: {small_world / 'base'}\ntasks: [{small_world / 'tasks' / 'first'}]\n"
            f"lora: {{targets: [v_proj, {target}]}}\nsteps: 1\n"
        )
        for command in (["plan", file], ["train", file, "--out", tmp_path / "run", "-q"]):
            answer = cli(*command)
            assert answer.code == 2
            assert "lora.targets" in answer.err
            assert said in answer.err


def test_a_plan_counts_tokens_as_the_tokenizer_does(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    told = []
    for count in (5, 11, 23):
        task = shutil.copytree(small_world / "tasks" / "first", tmp_path / str(count))
        with (task / "train.jsonl").open("a") as lines:
            lines.write(json.dumps({"id": "long", "prompt": "a" * (count - 1), "answer": "b"}) + "\n")
        file = tmp_path / f"{count}.yaml"
        file.write_text(f"train: 1\nbase: {small_world / 'base'}\ntasks: [{task}]\n")
        told.append(json.loads(cli("plan", file, "--json").out)["activations"])
    # A character is a token there.
    assert [one / told[0] for one in told] == pytest.approx([1, 11 / 5, 23 / 5])


def test_counted_factors_are_those_that_are_trained(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    from safetensors import safe_open

    from genepool.training.memory import plan_memory
    from genepool.training.opened_training import OpenedTraining
    from genepool.training.recipe import load_training

    assert train("run", "--lora", 3, "--steps", 1).code == 0
    plan = plan_memory(OpenedTraining.open(load_training(tmp_path / "run" / "training.yaml")))
    with safe_open(tmp_path / "run" / "adapter" / "adapter_model.safetensors", "pt") as file:
        trained = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - no mapping
    assert plan.parameters == trained


@pytest.mark.slow
def test_the_page_says_first_what_was_gained_and_lost(
    cli: Callable[..., Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train("run", "--steps", 100).code == 0
    page = (run / "report.html").read_text()
    title = page[page.index("<h1>") : page.index("</h1>")]
    assert "first from" in title
    assert "grade" in title or "none got clearly worse" in title
    assert "http://" not in page.replace("http://www.w3.org", "")
    card = (run / "adapter" / "README.md").read_text()
    assert "| first (taught) |" in card
    assert cli("report", run, "--out", tmp_path / "page.md", "--json").code == 0
    assert (tmp_path / "page.md").read_text().startswith("# first from")
    assert cli("report", run, "--out", tmp_path / "page.md").code == 2
    assert cli("report", run, "--beside", run).code == 2
    (run / "train.json").write_text("{}")
    assert cli("report", run).code == 2


def test_an_unfinished_training_has_no_report_and_a_base_is_no_place_for_one(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert train("run", "--steps", 1).code == 0
    (tmp_path / "run" / "train.json").unlink()
    answer = cli("report", tmp_path / "run")
    assert answer.code == 2
    assert "not finished" in answer.err
    base = shutil.copytree(small_world / "base", tmp_path / "base")
    answer = cli("train", small_world / "tasks" / "first", "--base", base, "--out", base, "--steps", 1, "--overwrite")
    assert answer.code == 2
    assert "the output is one of the inputs" in answer.err
    file = tmp_path / "run" / "training.yaml"
    answer = cli("train", file, "--out", tmp_path / "other", "--steps", 3)
    assert answer.code == 2
    assert "Set `steps` in" in answer.err
