"""A training that was stopped, forked, changed or tampered with: to the same bits, or refused with what differs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import QUICK, result_bytes, rows, told

from genepool.training import run as running


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


@pytest.mark.slow
def test_a_finished_run_called_again_changes_nothing(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("run").code == 0
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    assert train("run").code == 0
    assert before == {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_fork_begins_with_what_another_run_had_learned(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("run", "--steps", 100).code == 0
    assert train("further", "--fork", tmp_path / "run", "--learning-rate", 0.001).code == 0
    first = told(tmp_path / "further")["validations"][0]
    assert first["loss"] == pytest.approx(min(one["loss"] for one in told(tmp_path / "run")["validations"]), rel=1e-5)
    assert train("further", "--learning-rate", 0.001).code == 0  # going on needs no second --fork


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_damaged_state_is_named(train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("run").code == 0
    (tmp_path / "run" / "train.json").unlink()
    for file in (tmp_path / "run" / "states").rglob("*.safetensors"):
        file.write_bytes(b"nonsense")
    answer = train("run")
    assert answer.code == 2
    assert "state.safetensors" in answer.err


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_fork_of_another_base_is_refused(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert train("run", "--steps", 2).code == 0
    words = (small_world / "tasks" / "first", "--base", small_world / "other", "--out", tmp_path / "fork", *QUICK)
    answer = cli("train", *words, "--fork", tmp_path / "run")
    assert answer.code == 2
    assert "was trained from another base: base was" in answer.err
    assert not (tmp_path / "fork" / "states").exists()
    assert answer.err.count("\n") == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_is_asked_in_the_end_may_change(train: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    assert train("run", "--steps", 2, "--test", 5).code == 0
    steps = rows(tmp_path / "run", "SELECT * FROM steps")
    assert train("run", "--steps", 2, "--test", 7).code == 0
    assert [row["n"] for row in (*told(tmp_path / "run")["target"], *told(tmp_path / "run")["others"])] == [7, 7]
    assert ">7<" in (tmp_path / "run" / "report.html").read_text()
    assert train("run", "--steps", 2, "--test", 7, "--others", small_world / "tasks" / "first").code == 0
    assert told(tmp_path / "run")["others"] == []
    assert rows(tmp_path / "run", "SELECT * FROM steps") == steps


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_record_of_an_older_version_lacks_keys_that_are_at_their_defaults(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    assert train("run").code == 0
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    for run in ("run", "other"):
        with sqlite3.connect(tmp_path / run / "run.sqlite") as opened:
            ((text,),) = opened.execute("SELECT value FROM meta WHERE key = 'settings'")
            known = json.loads(text)
            for key in ("average", "shares", "portions"):
                known.pop(key)
            known["lora"].pop("dropout")
            if run == "other":
                known["weight_decay"] = 0.5
            opened.execute("UPDATE meta SET value = ? WHERE key = 'settings'", (json.dumps(known),))
    assert train("run").code == 0
    answer = train("other")
    assert answer.code == 2
    assert "changed since it began: weight_decay was 0.5 and is 0.0." in answer.err
