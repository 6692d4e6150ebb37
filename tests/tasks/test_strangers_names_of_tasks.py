"""Names of models and tasks reach a terminal as text, as tests/cli/test_strangers_names.py has it of other names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAME, SHOWN = "[red]x\x1b[31m", r"[red]x\x1b[31m"


@pytest.mark.parametrize("command", ["evaluate", "profile"])
def test_commands_print_names_as_they_are(
    command: str, tiny_model: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    task = tmp_path / "tasks" / NAME
    task.mkdir(parents=True)
    (task / "test.jsonl").write_text(json.dumps({"prompt": "a:", "answer": "a"}))
    answer = cli(command, tiny_model(NAME), "--tasks", tmp_path / "tasks", "--ledger", tmp_path / "ledger.sqlite")
    assert answer.code == 0, answer.err
    assert answer.out.count(SHOWN) >= 2, "the model and the task"
    assert "\x1b" not in answer.out + answer.err
