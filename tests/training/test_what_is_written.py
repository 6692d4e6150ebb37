"""What a model writes before and after a training: its answers, their length, and how far they are from its base's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import told

from genepool.tasks import LanguageModel, load_tasks
from genepool.tasks.decoding import Decoding
from genepool.weights import open_weights


def written(model: object, task: Path, count: int) -> list[str]:
    """What a model answers to the first test examples of a task, asked as it is typed."""
    (loaded,) = load_tasks(task)
    examples = loaded.examples("test")[:count]
    able = LanguageModel.load(open_weights(str(model)))
    decoding = Decoding(loaded.settings.max_new_tokens)
    found = able.write([loaded.prompt_for(one, able) for one in examples], [one.key for one in examples], decoding, 8)
    return [one.text for one in found]


@pytest.mark.parametrize("form", ["--lora", pytest.param("--full", marks=pytest.mark.slow)])
def test_answers_are_those_of_the_base_and_of_the_result(
    train: Callable[..., Any], small_world: Path, tmp_path: Path, form: str
) -> None:
    options = [form, 2] if form == "--lora" else [form]
    assert train("run", *options, "--test", 6).code == 0
    said = told(tmp_path / "run")
    assert [(row["task"], row["n"]) for row in said["writing"]] == [("first", 6), ("grade", 6)]
    result = f"{small_world / 'base'}+{tmp_path / 'run' / said['result']}"
    for row in said["writing"]:
        task = small_world / "tasks" / row["task"]
        assert [one["before"] for one in row["shown"]] == written(small_world / "base", task, 4)
        assert [one["after"] for one in row["shown"]] == written(result, task, 4)
        assert 1 <= row["after"] <= 3
    first = said["writing"][0]
    assert first["kl"] > 0.1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What it writes" in page
    assert f"{first['kl']:.3g}" in page
    assert said["cost"] == {"steps": 40, "examples": 640, "tokens": 0}
    assert "40 steps, 640 examples (13.3 rounds of all)" in page


def test_who_did_not_move_diverges_by_nothing(
    train: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert train("run", "--steps", 1, "--learning-rate", 1e-9).code == 0
    assert all(0 <= row["kl"] < 1e-6 for row in told(tmp_path / "run")["writing"])
    assert cli("report", tmp_path / "run", "--out", tmp_path / "page.md", "--quiet").code == 0
    assert "| first | 16 |" in (tmp_path / "page.md").read_text()
    file = tmp_path / "run" / "train.json"
    said = json.loads(file.read_text())
    said["writing"][0]["kl"] = "far"
    file.write_text(json.dumps(said))
    answer = cli("report", tmp_path / "run", "--quiet")
    assert answer.code == 2
    assert "train.json:writing" in answer.err
