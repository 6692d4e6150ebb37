"""`genepool train` as it is typed: what comes out, what is told, and that a killed run goes on to the same bits."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.tasks import metrics
from genepool.training import run as running
from genepool.weights import open_weights

QUICK = ("--steps", 40, "--every", 10, "--learning-rate", 0.02, "--batch", 16, "--quiet")


@pytest.fixture
def train(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`train("run", *options)`: teaches the task `first` to the base."""

    def call(out: str, *options: Any, tasks: Any = None) -> Any:
        named = [small_world / "tasks" / "first"] if tasks is None else tasks
        return cli("train", *named, "--base", small_world / "base", "--out", tmp_path / out, *QUICK, *options)

    return call


def told(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "train.json").read_text()))


def result_bytes(folder: Path) -> bytes:
    file = folder / "adapter" / "adapter_model.safetensors"
    return (file if file.is_file() else folder / "skill.safetensors").read_bytes()


def rows(folder: Path, query: str) -> list[Any]:
    with sqlite3.connect(folder / "run.sqlite") as database:
        return database.execute(query).fetchall()


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


@pytest.mark.parametrize("stop", [3, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (10, 17, 40))])
@pytest.mark.parametrize("form", ["--lora", "--full"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, form: str
) -> None:
    options = [form, 2] if form == "--lora" else [form]
    assert train("whole", *options).code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == stop:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert train("stopped", *options).code == 130
    assert not (tmp_path / "stopped" / "train.json").exists()
    assert train("stopped", *options).code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    for table in ("steps", "examples", "validations"):
        query = f"SELECT * FROM {table} ORDER BY 1, 2"
        assert rows(tmp_path / "stopped", query) == rows(tmp_path / "whole", query)
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")


def test_a_finished_run_called_again_changes_nothing(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("run").code == 0
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    assert train("run").code == 0
    assert before == {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}


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


def test_training_stops_early_and_writes_the_best_state(train: Callable[..., Any], tmp_path: Path) -> None:
    answer = train("run", "--lora", 2, "--learning-rate", 3.0, "--steps", 400, "--every", 2, "--patience", 2)
    assert answer.code == 0, answer.err
    found = told(tmp_path / "run")
    assert found["stopped_early"]
    assert found["steps"] < 400
    best = min(found["validations"][1:], key=lambda one: one["loss"])
    assert found["best_step"] == best["step"] < found["steps"]


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


def test_several_tasks_and_a_lone_file_are_learned_from(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"prompt": f"x{one}{two}=", "answer": one}) for one in "abcdefgh" for two in "abcdefgh"]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    answer = train("run", tasks=[tmp_path / "mine.jsonl", small_world / "tasks" / "grade"])
    assert answer.code == 0, answer.err
    found = told(tmp_path / "run")
    assert [row["task"] for row in found["target"]] == ["mine", "grade"]
    assert found["target"][0]["n"] + found["examples"]["train"] + found["examples"]["valid"] < 64 + 48 + 12 + 1


def test_a_fork_begins_with_what_another_run_had_learned(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("run", "--steps", 100).code == 0
    assert train("further", "--fork", tmp_path / "run", "--learning-rate", 0.001).code == 0
    first = told(tmp_path / "further")["validations"][0]
    assert first["loss"] == pytest.approx(min(one["loss"] for one in told(tmp_path / "run")["validations"]), rel=1e-5)
    assert train("further", "--learning-rate", 0.001).code == 0  # going on needs no second --fork


def test_gates_decide_the_exit(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("gates:\n  - {ability: first, measure: difference, at_least: 0.99}\n")
    (tmp_path / "easy.yaml").write_text("gates:\n  - {ability: first, measure: difference, at_least: -1}\n")
    assert train("run", "--steps", 1, "--gate", tmp_path / "easy.yaml").code == 0
    assert train("run", "--steps", 1, "--gate", tmp_path / "gate.yaml").code == 1


def test_steps_on_record_can_be_verified(cli: Callable[..., Any], train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("run", "--steps", 25).code == 0
    for step in (1, 11, 25):
        answer = cli("verify-run", tmp_path / "run", "--step", step, "--quiet")
        assert answer.code == 0, answer.err
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as database:
        database.execute("UPDATE steps SET digest = ? WHERE step = 12", ("0" * 64,))
    database.close()
    assert cli("verify-run", tmp_path / "run", "--step", 12, "--quiet").code == 1
    assert cli("verify-run", tmp_path / "run", "--step", 99, "--quiet").code == 2
    assert cli("verify-run", tmp_path / "nothing", "--step", 1, "--quiet").code == 2


BAD: dict[str, tuple[list[Any], str]] = {
    "rank and full": (["--lora", 2, "--full"], "--full and --lora together"),
    "no objective": (["--objective", "nonsense"], "nonsense"),
    "a teacher for nothing": (["--teacher", "base"], "teacher"),
    "no teacher": (["--objective", "distance"], "teacher"),
    "a rate of none": (["--learning-rate", -1], "learning_rate"),
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
        (pattern, "no texts as answers"),
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


def test_another_base_or_setting_in_a_run_is_refused_with_what_differs(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert train("run").code == 0
    arguments = (small_world / "tasks" / "first", "--base", small_world / "other", "--out", tmp_path / "run", *QUICK)
    answer = cli("train", *arguments)
    assert answer.code == 2
    assert "base was" in answer.err
    assert "--fork" in answer.err
    assert train("run", "--batch", 8).code == 2
    assert train("run", "--batch", 8, "--overwrite").code == 0


def test_a_damaged_state_is_named(train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("run").code == 0
    (tmp_path / "run" / "train.json").unlink()
    for file in (tmp_path / "run" / "states").rglob("*.safetensors"):
        file.write_bytes(b"nonsense")
    answer = train("run")
    assert answer.code == 2
    assert "state.safetensors" in answer.err


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


def test_packed_examples_see_themselves_alone(train: Callable[..., Any], tmp_path: Path) -> None:
    for name, options in {"apart": [], "packed": ["--pack"]}.items():
        assert train(name, "--steps", 5, *options).code == 0
    losses = [
        [row[0] for row in rows(tmp_path / name, "SELECT loss FROM examples ORDER BY step, place")]
        for name in ("apart", "packed")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-5)


def test_a_metric_of_ones_own_judges_when_its_file_is_named(
    train: Callable[..., Any], small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    answer = train("run", "--plugin", tmp_path / "half.py", tasks=[task])
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
    shown = cli("plan", tmp_path / "lora.yaml")
    assert "fits" in shown.out
    assert "first" in shown.out
    assert cli("plan", tmp_path / "lora.yaml", "--all").code == 2


def test_counted_factors_are_those_that_are_trained(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    from safetensors import safe_open

    from genepool.training.memory import plan_memory
    from genepool.training.opened import Opened
    from genepool.training.recipe import load_training

    assert train("run", "--lora", 3, "--steps", 1).code == 0
    plan = plan_memory(Opened.open(load_training(tmp_path / "run" / "training.yaml")))
    with safe_open(tmp_path / "run" / "adapter" / "adapter_model.safetensors", "pt") as file:
        trained = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - no mapping
    assert plan.parameters == trained


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


TEMPLATE = (
    "{% for m in messages %}{{ '+' if m['role'] == 'user' else '.' }}{{ m['content'] }}{{ eos_token if m['role'] == "
    "'assistant' else '' }}{% endfor %}{% if add_generation_prompt %}.{% endif %}"
)


def test_of_a_conversation_the_assistants_words_alone_are_learned(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(small_world / "base", tmp_path / "base")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    lines = []
    for one in "abcdefgh":
        for two in "abcdefgh":
            talk = [("user", f"{one}"), ("assistant", one), ("user", f"{two}="), ("assistant", two)]
            lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}))
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    quick = ("--steps", 120, "--every", 20, "--batch", 16, "--learning-rate", 0.003, "--quiet")
    answer = cli(
        "train", tmp_path / "talks.jsonl", "--base", base, "--out", tmp_path / "run", "--full", *quick, "--json"
    )
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    (target,) = found["target"]
    assert target["after"] > target["before"] + 0.5
    # Two turns of the assistant's in every conversation.
    assert found["examples"]["train"] + 2 * (found["examples"]["valid"] + target["n"]) == 2 * 64
    assert {row[0] for row in rows(tmp_path / "run", "SELECT count(*) FROM examples GROUP BY step")} == {16}


def test_prompt_and_completion_is_prompt_and_answer(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    for name, key in {"ours": "answer", "theirs": "completion"}.items():
        lines = [json.dumps({"prompt": f"x{one}{two}=", key: one}) for one in "abcdefgh" for two in "abcdefgh"]
        (tmp_path / "mine.jsonl").write_text("\n".join(lines))
        assert train(name, tasks=[tmp_path / "mine.jsonl"]).code == 0
    assert result_bytes(tmp_path / "ours") == result_bytes(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "a", "answer": "b", "completion": "c"}, "both `answer` and `completion`"),
        ({"prompt": "a", "messages": []}, "both `messages` and `prompt`"),
        ({"messages": []}, "end with what the assistant answers"),
        ({"messages": [{"role": "user", "content": "a"}]}, "end with what the assistant answers"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "end with what the assistant answers"),
        ({"messages": [{"role": "user"}]}, "a role and a content each"),
        ({"messages": [{"role": "user", "content": 3}]}, "a role and a content each"),
        ({"messages": "hello"}, "a role and a content each"),
    ],
)
def test_lines_that_are_no_example_are_named(
    train: Callable[..., Any], tmp_path: Path, line: dict[str, Any], said: str
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' + json.dumps(line) + "\n")
    answer = train("run", tasks=[tmp_path / "mine.jsonl"])
    assert answer.code == 2
    assert said in answer.err
    assert "mine.jsonl:2" in answer.err


def test_packed_examples_share_rows(small_world: Path) -> None:
    from genepool.tasks import Example, load_tasks, open_model
    from genepool.training import encode_examples

    model = open_model(small_world / "base").load()
    (task,) = load_tasks(small_world / "tasks" / "first")
    examples: list[Example] = list(task.examples("train"))
    (batch,) = encode_examples(model, examples, task, packed=True).batches
    assert "position_ids" in batch.inputs
    rows_used, width = batch.inputs["input_ids"].shape
    assert rows_used < len(examples) / 4
    assert width <= model.context  # type: ignore[attr-defined]
    assert sorted(batch.numbers) == list(range(len(examples)))


def test_a_model_that_cannot_tell_packed_examples_apart_is_refused(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world / "base")
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=2, pad_token_id=0
    )
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "recurrent")
    tokenizer.save_pretrained(tmp_path / "recurrent")
    line = ["train", small_world / "tasks" / "first", "--base", tmp_path / "recurrent", "--out", tmp_path / "run"]
    refused = cli(*line, "--steps", 2, "--pack", "--quiet")
    assert refused.code == 2
    assert "does not tell packed examples apart" in refused.err


def test_a_state_that_is_not_the_one_on_record_is_refused(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 12:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert train("run").code == 130
    (file,) = (tmp_path / "run" / "states").rglob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith("value:") and "lora_B" in name)
    tensors[name] = tensors[name] + 0.1
    save_file(tensors, file)
    answer = train("run")
    assert answer.code == 2
    assert "is not the one on record" in answer.err


def test_a_fork_is_gone_on_with_when_the_other_folder_is_gone(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("first", "--steps", 60).code == 0
    assert train("whole", "--fork", tmp_path / "first", "--learning-rate", 0.001).code == 0

    def dying(self: Any, session: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_resume", dying)
        assert train("fork", "--fork", tmp_path / "first", "--learning-rate", 0.001).code == 130
    shutil.rmtree(tmp_path / "first")
    assert train("fork", "--learning-rate", 0.001).code == 0
    assert result_bytes(tmp_path / "fork") == result_bytes(tmp_path / "whole")
    assert told(tmp_path / "fork")["validations"] == told(tmp_path / "whole")["validations"]
    for other in (["--lora", 4], ["--full"]):
        refused = train("other", "--fork", tmp_path / "whole", *other)
        assert refused.code == 2
        assert "another part of a model" in refused.err


@pytest.mark.parametrize(
    ("key", "value"), [("result", "/etc"), ("steps", "many"), ("target", [{}]), ("base", 3), ("learning_rate", None)]
)
def test_a_result_that_was_tampered_with_is_named(
    train: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path, key: str, value: Any
) -> None:
    assert train("run", "--steps", 1).code == 0
    file = tmp_path / "run" / "train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    for answer in (train("run", "--steps", 1), cli("report", tmp_path / "run")):
        assert answer.code == 2
        assert f"train.json:{key}" in answer.err


def test_overwriting_clears_a_training_and_nothing_else(train: Callable[..., Any], tmp_path: Path) -> None:
    other = tmp_path / "mine"
    (other / "states").mkdir(parents=True)
    (other / "states" / "mine.txt").write_text("precious")
    train("mine", "--steps", 1, "--overwrite")
    assert (other / "states" / "mine.txt").read_text() == "precious"
    assert train("run", "--steps", 2).code == 0
    assert train("run", "--steps", 1, "--overwrite").code == 0
    assert told(tmp_path / "run")["steps"] == 1


def test_what_is_asked_in_the_end_may_change(train: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    assert train("run", "--steps", 2, "--test", 5).code == 0
    steps = rows(tmp_path / "run", "SELECT * FROM steps")
    assert train("run", "--steps", 2, "--test", 7).code == 0
    assert [row["n"] for row in (*told(tmp_path / "run")["target"], *told(tmp_path / "run")["others"])] == [7, 7]
    assert ">7<" in (tmp_path / "run" / "report.html").read_text()
    assert train("run", "--steps", 2, "--test", 7, "--others", small_world / "tasks" / "first").code == 0
    assert told(tmp_path / "run")["others"] == []
    assert rows(tmp_path / "run", "SELECT * FROM steps") == steps


def test_a_start_that_failed_is_mended_without_overwriting(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"prompt": f"x{one}{two}=", "answer": one}) for one in "abcdefgh" for two in "abcdefgh"]
    file = tmp_path / "mine.jsonl"
    # Whichever of the splits an example falls into, one of these is for training.
    lines += [json.dumps({"prompt": f"{position}", "answer": "a" * 60}) for position in range(64)]
    file.write_text("\n".join(lines))
    assert train("run", "--steps", 2, tasks=[file]).code == 2
    file.write_text("\n".join(lines[:64]))
    answer = train("run", "--steps", 2, tasks=[file])
    assert answer.code == 0, answer.err
    assert train("whole", "--steps", 2, tasks=[file]).code == 0
    assert result_bytes(tmp_path / "run") == result_bytes(tmp_path / "whole")


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
    assert "base's own folder" in answer.err
    file = tmp_path / "run" / "training.yaml"
    answer = cli("train", file, "--out", tmp_path / "other", "--steps", 3)
    assert answer.code == 2
    assert "Set `steps` in" in answer.err


def test_a_conversation_without_a_chat_template_says_what_helps(train: Callable[..., Any], tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [json.dumps({"id": str(n), "messages": [{**talk[0], "content": f"{n}"}, talk[1]]}) for n in range(64)]
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    answer = train("run", "--steps", 1, tasks=[tmp_path / "talks.jsonl"])
    assert answer.code == 2
    assert "Name a model with a chat template" in answer.err


@pytest.mark.parametrize("kind", ["bert", "t5", "resnet"])
def test_other_kinds_of_models_learn_and_go_on_to_the_same_bits(
    kind: str, cli: Callable[..., Any], small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    if kind == "resnet":
        pytest.importorskip("PIL")
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world / "base")
    torch.manual_seed(0)
    small = {"vocab_size": len(tokenizer), "pad_token_id": 0}
    letters = dict(enumerate("abcdefgh"))
    folder = tmp_path / kind
    if kind == "bert":
        config: Any = transformers.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, id2label=letters,
            label2id={label: n for n, label in letters.items()}, **small,
        )  # fmt: skip
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    elif kind == "t5":
        config = transformers.T5Config(
            d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0, eos_token_id=2, **small
        )
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    else:
        _images(tmp_path)
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label={0: "dark", 1: "light"},
            label2id={"dark": 0, "light": 1},
        )  # fmt: skip
        transformers.ResNetForImageClassification(config).save_pretrained(folder)
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    if kind != "resnet":
        tokenizer.save_pretrained(folder)
    task = tmp_path / "shades" if kind == "resnet" else small_world / "tasks" / "first"
    form = ["--full"] if kind == "resnet" else ["--lora", "4"]
    options = ["--steps", "60", "--every", "20", "--batch", "16", "--learning-rate", "0.01", "--quiet"]

    def run(name: str) -> Any:
        return cli("train", task, "--base", folder, "--out", tmp_path / name, *form, *options)

    answer = run("whole")
    assert answer.code == 0, answer.err
    found = told(tmp_path / "whole")
    assert found["validations"][-1]["loss"] < found["validations"][0]["loss"]
    asked = f"{folder}+{tmp_path / 'whole' / found['result']}"
    again = json.loads(cli("evaluate", asked, "--tasks", task, "--json").out)["results"][0]
    assert again["mean"] == pytest.approx(found["target"][0]["after"])
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 25:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert run("stopped").code == 130
    assert run("stopped").code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")


def _images(folder: Path) -> None:
    """A task of light and dark images."""
    from PIL import Image

    for split, count in {"train": 32, "valid": 8, "test": 8}.items():
        place = folder / "shades"
        place.mkdir(exist_ok=True)
        lines = []
        for number in range(count):
            light = number % 2
            name = f"{split}{number}.png"
            Image.new("RGB", (16, 16), (200 + number if light else 20 + number,) * 3).save(place / name)
            lines.append(json.dumps({"id": name, "image": name, "answer": "light" if light else "dark"}))
        (place / f"{split}.jsonl").write_text("\n".join(lines))
    (folder / "shades" / "task.yaml").write_text("input: image\nmetric: exact_match\n")
