"""One reader of YAML for recipes, studies, trainings, tasks and gates: a key that stands twice is refused by all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import InputError
from genepool.schema import read_yaml

# What is typed, with the file that says a key twice, the key and its second line.
TWICE = {
    "recipe": (
        "genepool: 1\nmethod: linear\nmodels:\n  - model: a\n    weight: 1\n    weight: 2\n",
        "models.0.weight",
        6,
    ),
    "mergekit": ("merge_method: linear\nmodels: []\nmerge_method: ties\n", "merge_method", 3),
    "study": ("study: 1\nbase: b\nskills: [s]\nbudget: {evaluations: 1, evaluations: 2}\n", "budget.evaluations", 4),
    "training": ("train: 1\nbase: b\ntasks: [t]\nlora:\n  rank: 4\n  rank: 5\n", "lora.rank", 6),
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_key_that_stands_twice_is_refused_in_a_plan(kind: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    text, key, line = TWICE[kind]
    (tmp_path / "file.yaml").write_text(text)
    answer = cli("plan", tmp_path / "file.yaml")
    assert answer.code == 2
    assert f"file.yaml:{key}: the key '{key.rpartition('.')[2]}' stands twice" in answer.err
    assert f"and {line}. Remove one of them." in answer.err


def test_gates_and_tasks_refuse_it_too(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "gates.yaml").write_text("gates:\n  - {task: each, at_least: 0, at_least: -1}\n")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "test.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (tmp_path / "task" / "task.yaml").write_text("strip: true\nmetric: contains\nstrip: false\n")
    gated = cli("compare", "a", "b", "--tasks", tmp_path / "task", "--gate", tmp_path / "gates.yaml")
    assert gated.code == 2
    assert "gates.yaml:gates.0.at_least: the key 'at_least' stands twice, on lines 2 and 2" in gated.err
    asked = cli("evaluate", "a", "--tasks", tmp_path / "task")
    assert asked.code == 2
    assert "task.yaml:strip: the key 'strip' stands twice, on lines 1 and 3" in asked.err


def test_what_is_merged_in_may_be_said_again(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\n")
    assert read_yaml(file)["two"] == {"a": 1, "b": 3}
    # The same key of two types is two keys.
    file.write_text("1: a\n'1': b\n")
    assert read_yaml(file) == {1: "a", "1": "b"}
    file.write_text("1: a\n0x1: b\n")
    with pytest.raises(InputError, match="stands twice"):
        read_yaml(file)
