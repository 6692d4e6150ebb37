"""What `genepool train` and `genepool plan` refuse before anything is trained, and what a folder may be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import QUICK, told


def test_a_gate_on_no_task_of_the_run_is_refused_before_anything_is_trained(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("gates:\n  - {task: frist, at_least: 0}\n")
    answer = train("run", "--gate", gate)
    assert answer.code == 2
    assert answer.err.strip() == (f"error: {gate}:gates.0.task: no task 'frist' is compared. Did you mean 'first'?")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--learning-rate", -1], "error: --learning-rate: input should be greater than 0 (it says -1.0). See"),
        (["--learning-rate", "nan"], "error: --learning-rate: input should be a finite number"),
        (["--lora", 5000], "error: --lora: input should be less than or equal to 4096"),
        (["--objective", "likelihod"], "Did you mean 'likelihood'?\n"),
    ],
)
def test_a_wrong_value_names_its_option(train: Callable[..., Any], options: list[Any], said: str) -> None:
    answer = train("run", *options)
    assert answer.code == 2
    assert said in answer.err


@pytest.mark.slow
def test_overwriting_replaces_the_folder_as_merge_does(train: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train("run", "--steps", 2).code == 0
    (run / "mine.txt").write_text("mine")
    (run / "more").mkdir()
    refused = train("run", "--steps", 1)
    assert refused.code == 2
    assert (run / "mine.txt").is_file()
    assert train("run", "--steps", 1, "--overwrite").code == 0
    assert told(run)["steps"] == 1
    assert not (run / "mine.txt").exists()
    assert not (run / "more").exists()


@pytest.mark.slow
def test_what_a_training_is_made_from_is_never_overwritten(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    world = shutil.copytree(small_world, tmp_path / "world")
    line = ["train", world / "tasks" / "first", "--base", world / "base", *QUICK, "--overwrite"]
    for out in (world, world / "tasks", world / "base"):
        answer = cli(*line, "--out", out)
        assert answer.code == 2
        assert ("is one of the inputs" if out.name == "base" else "lies in the output folder") in answer.err
    assert train("run", "--steps", 1).code == 0
    answer = train("run", "--steps", 1, "--fork", tmp_path / "run", "--overwrite")
    assert answer.code == 2
    assert (tmp_path / "run" / "train.json").is_file()
    assert {path.name for path in world.iterdir()} == {path.name for path in small_world.iterdir()}


@pytest.mark.slow
def test_messages_under_prompt_and_completion_are_learned_as_trl_does(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    """Of the assistant's words those under `completion` alone: two turns of each of these conversations, not three."""
    base = shutil.copytree(small_world / "base", tmp_path / "base")
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")

    def said(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    lines = []
    for one in "abcdefgh":
        for two in "abcdefgh":
            shown = [said("user", one), said("assistant", "x"), said("user", two)]
            answered = [said("assistant", one), said("user", two), said("assistant", two)]
            lines.append(json.dumps({"prompt": shown, "completion": answered}))
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    answer = cli("train", tmp_path / "talks.jsonl", "--base", base, "--out", tmp_path / "run", *QUICK, "--steps", 6)
    assert answer.code == 0, answer.err
    found = told(tmp_path / "run")
    assert found["examples"]["train"] == 2 * (64 - found["examples"]["valid"] - found["target"][0]["n"])


@pytest.mark.parametrize(
    ("line", "told_so"),
    [
        ({"prompt": [{"role": "user", "content": "a"}], "completion": "b"}, "`completion` must be a list of a role"),
        ({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}, "`prompt` must be a list of a role"),
        ({"prompt": [{"role": "user", "content": "a"}], "answer": "b"}, "Write the conversation under `messages`"),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "user", "content": "b"}]}, "must end"),
        ({"prompt": [{"role": "user"}], "completion": [{"role": "assistant", "content": "b"}]}, "`prompt` must be"),
    ],
)
def test_half_a_conversation_is_named(
    train: Callable[..., Any], tmp_path: Path, line: dict[str, Any], told_so: str
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' + json.dumps(line) + "\n")
    answer = train("run", tasks=[tmp_path / "mine.jsonl"])
    assert answer.code == 2
    assert told_so in answer.err
    assert "mine.jsonl:2" in answer.err


@pytest.mark.slow
def test_quiet_is_quiet_about_long_examples(train: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    """transformers warns of texts longer than the context; the one line that names the example is enough."""
    import subprocess
    import sys

    task = shutil.copytree(small_world / "tasks" / "first", tmp_path / "long")
    with (task / "train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "too-long", "prompt": "f" * 90, "answer": "a"}) + "\n")
    base = shutil.copytree(small_world / "base", tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 16}))
    found = subprocess.run(
        [sys.executable, "-m", "genepool", "train", task, "--base", base, "--out", tmp_path / "run", "-q"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1, found.stderr
    assert "too-long" in found.stderr
