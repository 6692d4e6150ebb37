"""`genepool compare`, end to end: models asked, models on record, gates and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.tasks import LanguageModel, Ledger, Outcome


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks" / "copy"
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": letter, "prompt": f"{letter}:", "answer": letter}) for letter in "abcdefgh"]
    (folder / "test.jsonl").write_text("\n".join(lines))
    return tmp_path / "tasks"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A ledger of two models nobody can ask: the new one solves what the old one did and ten more, and loses one."""
    path = tmp_path / "record.sqlite"
    with Ledger(path) as ledger:
        for model, right in (("org/old", range(40)), ("org/new", range(1, 50))):
            rows = [(f"key {i}", f"{i}", Outcome(float(i in right), f"said {i in right}")) for i in range(60)]
            ledger.record(f"imported {model}", model, "arc", "lm-eval", rows)
    return path


def test_models_are_asked_once_and_what_they_said_is_compared(
    tiny_model: Callable[..., Path], tasks: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: Any
) -> None:
    old, new = tiny_model("old", seed=1), tiny_model("new", seed=2)
    call = ("compare", old, new, "--tasks", tasks, "--ledger", tmp_path / "l.sqlite", "--json")
    answer = cli(*call)
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    (one,) = told["comparisons"]
    assert (told["schema"], told["passed"], one["old"], one["new"]) == (1, True, str(old), str(new))
    (task,) = one["tasks"]
    # As programs written for earlier versions read it.
    assert one["abilities"] == [{"ability": task["task"], **task}]
    assert (task["task"], task["n"]) == ("copy", 8)
    assert sum(one["flips"].values()) == 8
    # Both wrote something for every example, so mistakes can be told apart.
    assert task["compatibility"]["other_mistakes"] is not None
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("loaded"))
    assert json.loads(cli(*call).out) == told


def test_models_on_record_are_compared_without_asking(record: Path, cli: Callable[..., Any]) -> None:
    told = json.loads(cli("compare", "org/old", "org/new", "--ledger", record, "--json").out)["comparisons"][0]
    assert told["flips"] == {"both_right": 39, "gained": 10, "lost": 1, "both_wrong": 10}
    # 11 flips, one of them the other way: 2 (1 + 11) / 2^11.
    assert told["tasks"][0]["mcnemar"] == pytest.approx(24 / 2048)
    shown = cli("compare", "org/old", "org/new", "--ledger", record)
    assert shown.code == 0
    assert "better" in shown.out


def test_gates_decide_the_exit_code(record: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text("gates:\n- {task: arc, measure: difference, at_least: 0.0}\n")
    call = ("compare", "org/old", "org/new", "--ledger", record, "--gate", gates)
    assert cli(*call).code == 0
    gates.write_text("gates:\n- {measure: negative_flips, at_most: 0.02}\n- {measure: kept, at_least: 0.999}\n")
    failed = cli(*call, "--json")
    assert failed.code == 1
    told = json.loads(failed.out)
    assert not told["passed"]
    assert [(g["passed"], g["undecided"]) for g in told["comparisons"][0]["gates"]] == [(False, True), (False, False)]
    assert failed.err.splitlines()[-1] == (
        f"error: {gates}: 2 of 2 gates do not hold. 1 may hold: more examples would tell"
    )
    gates.write_text("gates:\n- {task: arcc, at_least: 0}\n")
    wrong = cli(*call)
    assert wrong.code == 2
    assert "Did you mean 'arc'?" in wrong.err
    assert cli("compare", "org/old", "org/nwe", "--ledger", record).code == 2


def test_pages_are_written_and_nothing_is_replaced_unasked(
    record: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    page, text = tmp_path / "page.html", tmp_path / "page.md"
    call = ("compare", "org/old", "org/new", "--ledger", record, "--out", page, "--out", text)
    assert cli(*call).code == 0
    assert "said <mark>True</mark>" in page.read_text()
    assert "| arc | 60 | 66.7 | 81.7 |" in text.read_text()
    again = cli(*call)
    assert again.code == 2
    assert f"error: {page}: the file exists" in again.err
    assert cli(*call, "--overwrite").code == 0
    assert cli("compare", "org/old", "org/new", "--ledger", record, "--out", tmp_path / "page.pdf").code == 2
