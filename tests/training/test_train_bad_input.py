"""What breaks a training from outside: weights that are no numbers, a full disk, Ctrl-C, two of them in one folder."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import QUICK, result_bytes, told

from genepool import locking
from genepool.errors import InputError
from genepool.tasks import Example
from genepool.training import session
from genepool.training.journal import SCORES, Journal
from genepool.training.made_examples import MadeExample, Round
from genepool.training.train import _nothing_left


def test_weights_that_are_no_numbers_end_the_training_in_one_line(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(small_world / "base", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    answer = cli("train", small_world / "tasks" / "first", "--base", base, "--out", tmp_path / "run", *QUICK)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    # The cause is the base: no learning rate would help.
    assert "base:model.layers.0.mlp.up_proj.weight: holds NaN or infinity" in answer.err
    assert "learning rate" not in answer.err
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_first_loss_that_is_no_number_is_not_blamed_on_the_learning_rate(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    answer = train("run", "--objective", "sequence_match", "--set", "alpha=1e-300")
    assert answer.code == 2
    assert "the loss of step 1 is not a finite number" in answer.err
    assert "options of the objective nearer to their defaults" in answer.err
    # The error says that it has the folder, which --overwrite replaces.
    assert (tmp_path / "run" / "run.sqlite").is_file()


def test_what_was_made_or_scored_is_not_thrown_away(tmp_path: Path) -> None:
    made = MadeExample("first", Example("made-1", "fab=", ("a",)), {"by": "template"})
    for name, kept in (("empty", False), ("nothing", False), ("made", True), ("scored", True)):
        out = tmp_path / name
        with pytest.raises(InputError, match="later"), _nothing_left(out):
            out.mkdir()
            with Journal(out / "run.sqlite") as journal:
                if name in ("made", "nothing"):
                    examples = (made,) if name == "made" else ()
                    journal.put_round(Round(0, examples, {"wanted": 1, "tokens": 0}), 1)
                if name == "scored":
                    journal.set(SCORES, [0.5])
            raise InputError("later")
        assert out.exists() == kept, name


@pytest.mark.slow
def test_a_far_too_large_learning_rate_keeps_the_state_before_it(train: Callable[..., Any], tmp_path: Path) -> None:
    answer = train("run", "--learning-rate", 1e6, "--every", 1, "--patience", 0)
    # Factors on normed inputs may also stay finite: then the state of the lowest loss is what is written.
    assert answer.code in (0, 2), answer.err
    if answer.code == 2:
        assert answer.err.count("\n") == 1
        assert "is not a finite number" in answer.err
        assert "learning rate below 1e+06" in answer.err
    else:
        found = told(tmp_path / "run")
        best = min(found["validations"][1:], key=lambda one: one["loss"])
        assert found["best_step"] == best["step"]


@pytest.mark.slow
def test_ctrl_c_within_a_step_loses_nothing(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("whole").code == 0
    gradients = session.Session.gradients

    def stopped(self: Any, step: int) -> float:
        found = gradients(self, step)
        if step == 13:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "gradients", stopped)
        assert train("run").code == 130
    assert not list((tmp_path).glob(".run*"))
    assert train("run").code == 0
    assert result_bytes(tmp_path / "run") == result_bytes(tmp_path / "whole")


def test_two_trainings_in_one_folder_are_told_apart(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with locking.locked(tmp_path / "run"):
        answer = train("run")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "run" in answer.err
    assert not any((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_is_one_line_and_the_training_goes_on(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    """Files may grow to 64 KB: the record fits, the states of every tensor do not."""
    line = [
        "train", small_world / "tasks" / "first", "--base", small_world / "base", "--full", "--out", tmp_path / "run",
        "--ledger", tmp_path / "ledger.sqlite", *QUICK,
    ]  # fmt: skip

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    full = subprocess.run(
        [sys.executable, "-m", "genepool", *map(str, line)], capture_output=True, text=True, preexec_fn=limited
    )
    assert full.returncode == 2, full.stderr
    assert full.stderr.count("\n") == 1, full.stderr
    assert not (tmp_path / "run" / "train.json").exists()
    assert cli(*line).code == 0
    assert train("whole", "--full").code == 0
    assert result_bytes(tmp_path / "run") == result_bytes(tmp_path / "whole")


@pytest.mark.slow
def test_a_second_training_in_the_folder_of_one_that_runs_names_its_process(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    line = ["train", small_world / "tasks" / "first", "--base", small_world / "base", "--out", tmp_path / "run"]
    first = subprocess.Popen(
        [sys.executable, "-m", "genepool", *map(str, line), "--steps", "100000", "--patience", "0", "-q"]
    )
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "run.sqlite").is_file() and time.monotonic() < until:
            assert first.poll() is None
            time.sleep(0.1)
        answer = cli(*line, "--steps", "5", "-q")
    finally:
        first.send_signal(signal.SIGINT)
        # It exits with 130, or Python ends it by the signal itself: a shell reports 130 either way.
        assert first.wait(60) in (130, -signal.SIGINT)
    assert answer.code == 2
    assert str(first.pid) in answer.err
