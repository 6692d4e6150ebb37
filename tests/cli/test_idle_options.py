"""An option that would say nothing is refused, in one line, before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = [
    (["skill", "extract", "t", "--base", "b", "--out", "o", "--to", "dense", "--rank", "4"], "--rank"),
    (["skill", "convert", "s", "--to", "sparse", "--out", "o", "--rank", "4"], "--rank"),
    (["plan", "recipe.yaml", "--workers", "2"], "--workers"),
    (["plan", "study.yaml", "--all"], "--all"),
]


@pytest.mark.parametrize(
    ("call", "option"), CALLS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_an_idle_option_is_refused(
    call: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("genepool: 1\nmethod: linear\nmodels: [a, b]\n")
    Path("study.yaml").write_text("study: 1\n")
    answer = cli(*call)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.err.startswith(f"error: {option}: has no effect without")


@pytest.mark.parametrize(("option", "value"), [("--model", "org/m"), ("--task", "t")])
def test_an_export_of_ours_names_its_models_itself(
    option: str, value: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from genepool.tasks import Ledger, Outcome

    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.record("f", "model", "task", "asked", [("key", "id", Outcome(1.0))])
    assert cli("outcomes", "export", tmp_path / "rows.jsonl", "--ledger", tmp_path / "l.sqlite").code == 0
    answer = cli("outcomes", "import", tmp_path / "rows.jsonl", "--ledger", tmp_path / "new.sqlite", option, value)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.err.startswith(f"error: {option}: has no effect on genepool's own exports")


@pytest.mark.parametrize(
    "call", [["localise", "--tasks", "t"], ["compress", "--size", "1KB"]], ids=lambda call: call[0]
)
def test_an_occupied_output_is_seen_before_a_model_is_opened(
    call: list[str], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    out = tmp_path / "o.safetensors"
    out.write_text("old")
    answer = cli("skill", call[0], "nowhere", "--base", "nowhere", *call[1:], "--out", out)
    assert (answer.code, answer.err) == (2, f"error: {out}: the file exists. Name another, or pass --overwrite.\n")
