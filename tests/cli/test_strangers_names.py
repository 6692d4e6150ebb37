"""Names from other people's files reach a terminal as text: no control sequence acts on it, and no markup is read."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

NAME, SHOWN = "[red]x\x1b[31m", r"[red]x\x1b[31m"
CLI = Path(__file__).parents[2] / "src" / "genepool" / "cli"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)


def _models(save_model: Callable[..., Path], name: str) -> tuple[Path, Path]:
    weights = torch.arange(12.0).reshape(3, 4)
    return save_model(name, {"w": weights}), save_model(f"tuned {name}", {"w": weights + torch.eye(3, 4)})


def test_inspect_prints_a_name_as_it_is(save_model: Callable[..., Path], cli: Callable[..., Any]) -> None:
    answer = cli("inspect", *_models(save_model, NAME))
    assert answer.code == 0, answer.err
    assert SHOWN in answer.out
    assert "\x1b" not in answer.out + answer.err


def test_library_list_prints_a_name_as_it_is(save_model: Callable[..., Path], cli: Callable[..., Any]) -> None:
    base, tuned = _models(save_model, "[red]base")
    assert cli("skill", "extract", tuned, "--base", base, "--out", "s.safetensors").code == 0
    there = ("--library", "library")
    assert cli("library", "init", *there).code == 0
    refused = cli("library", "add", "s.safetensors", "--name", NAME, *there)
    assert refused.code == 2
    assert "\x1b" not in refused.err
    added = cli("library", "add", "s.safetensors", "--name", "[red]x", "--tag", "[b]tag", *there)
    assert added.code == 0, added.err
    answer = cli("library", "list", *there)
    assert "[red]x" in answer.out
    assert "[b]tag" in answer.out
    assert "[red]base" in answer.out
    assert "\x1b" not in added.out + answer.out


def test_an_error_prints_a_name_as_it_is(cli: Callable[..., Any]) -> None:
    answer = cli("inspect", NAME)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {SHOWN}: ")
    assert "\x1b" not in answer.err


def test_json_names_what_acts_on_a_terminal_by_its_number(
    save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    name = f"{NAME}\x9b31m"
    answer = cli("inspect", save_model(name, {"w": torch.ones(2, 2)}), "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["models"][0]["name"].endswith(name)
    assert not {"\x1b", "\x9b"} & set(answer.out)


def test_commands_print_through_one_place() -> None:
    """`tables` escapes and `main` prints errors: no other file of the command line writes to the terminal itself."""
    for path in CLI.rglob("*.py"):
        if path.name in ("tables.py", "main.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "typer.echo", "typer.secho"), f"{path.name}:{node.lineno}"
            written = called.endswith("sys.stdout.write") and path.name != "options.py"
            assert not written, f"{path.name}:{node.lineno}"
