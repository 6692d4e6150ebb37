"""The command line's promises: one error line, the agreed exit codes, and a light start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pydantic import BaseModel

from genepool import progress
from genepool.cli import main as command_line
from genepool.cli import options
from genepool.errors import CheckFailed, InputError
from genepool.tasks import Ledger, Outcome
from genepool.tasks.exchange import export_outcomes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "No such command 'nope'"),
        (["merge", "--nope"], "No such option: --nope"),
        (["merge"], "Missing argument"),
        (["merge", "/no/such.yaml", "out"], "/no/such.yaml: no such file"),
        (["methods", "tise"], "Did you mean 'ties'?"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_two(cli: Callable[..., Any], arguments: list[str], said: str) -> None:
    answer = cli(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert said in answer.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("wrong", where="f.yaml:key", fix="Do this"), 2, "error: f.yaml:key: wrong. Do this."),
        (InputError("wrong\nover lines", fix="Really?"), 2, "error: wrong over lines. Really?"),
        (CheckFailed("the gate said no."), 1, "error: the gate said no."),
        (KeyboardInterrupt(), 130, "error: interrupted."),
        (ZeroDivisionError("x/0"), 3, "error: ZeroDivisionError: x/0. This is a fault of genepool's"),
    ],
)
def test_every_failure_has_its_exit_code(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def broken(_: str | None) -> typer.Typer:
        app = typer.Typer()

        @app.callback(invoke_without_command=True)
        def fail() -> None:
            raise error

        return app

    monkeypatch.setattr(command_line, "build_app", broken)
    answer = cli()
    assert answer.code == code
    assert answer.err.startswith(said)
    assert "Traceback" not in answer.err


LOG = "block_num,block_type,task_name,exp_num,reward\n0,train,a,0,1.0\n1,test,a,1,0.5\n"


@pytest.mark.parametrize(
    "call",
    [
        ["plan", "r.yaml"],
        ["measure", "curve", "run.csv"],
        ["measure", "lifelong", "log.csv"],
        ["outcomes", "export", "out.jsonl", "--overwrite"],
        ["outcomes", "import", "outcomes.jsonl"],
    ],
    ids=" ".join,
)
def test_quiet_holds_where_a_command_has_no_progress_of_its_own(
    cli: Callable[..., Any],
    call: list[str],
    save_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it is done with may speak, such as a model that is fetched; so the word is kept until the next command."""
    monkeypatch.chdir(tmp_path)
    save_model("m", {"model.norm.weight": torch.ones(4)})
    Path("r.yaml").write_text("genepool: 1\nmethod: linear\nmodels: [m]\n")
    Path("run.csv").write_text("n,error\n" + "".join(f"{n},{n**-0.5}\n" for n in (10, 30, 100, 300)))
    Path("log.csv").write_text(LOG)
    with Ledger() as ledger:
        ledger.record("f1", "one", "add", "asked", [("k1", "1", Outcome(1.0, "2"))])
        export_outcomes(ledger, Path("outcomes.jsonl"))
    for more, said in (([], "fetching\n"), (["--quiet"], "")):
        assert cli(*call, *more).code == 0
        progress.message("fetching")
        assert capsys.readouterr().err == said


def test_version(cli: Callable[..., Any]) -> None:
    assert cli("--version").out.startswith("genepool ")


@pytest.mark.parametrize(
    ("call", "option", "other"),
    [
        (["compare", "org/old", "org/new", "--split", "valid"], "--split", "--tasks"),
        (["compare", "org/old", "org/new", "--limit", "9"], "--limit", "--tasks"),
        (["compare", "org/old", "org/new", "--batch-size", "9"], "--batch-size", "--tasks"),
        (["compare", "org/old", "org/new", "--no-outputs"], "--outputs", "--tasks"),
        (["compare", "org/old", "org/new", "--device", "cpu"], "--device", "--tasks"),
        (["compare", "org/old", "org/new", "--dtype", "float32"], "--dtype", "--tasks"),
        (["library", "search", "--text", "x", "--device", "cpu"], "--device", "--tasks"),
        (["library", "search", "--text", "x", "--dtype", "float32"], "--dtype", "--tasks"),
        (["skill", "compress", "s", "--size", "9KB", "--out", "o", "--device", "cpu"], "--device", "--calibrate"),
        (["skill", "compress", "s", "--size", "9KB", "--out", "o", "--dtype", "float32"], "--dtype", "--calibrate"),
        (["compare", "org/old", "org/new", "--allow-pickle"], "--allow-pickle", "--tasks"),
        (["evaluate", "m", "--tasks", "tasks", "--race-error", "0.05"], "--race-error", "--race"),
        (["library", "search", "--text", "x", "--base", "b"], "--base", "--tasks"),
        (["library", "search", "--text", "x", "--cheap"], "--cheap", "--tasks"),
        (["library", "search", "--like", "x", "--examples", "9"], "--examples", "--tasks"),
        (["measure", "curve", "run.csv", "--threshold", "0.1"], "--threshold", "--horizon"),
        (["skill", "extract", "m", "--base", "b", "--out", "s.safetensors", "--bits", "8"], "--bits", "--to packed"),
        (["skill", "convert", "s", "--to", "peft", "--out", "m", "--packing", "signs"], "--packing", "--to packed"),
        (["skill", "compress", "s", "--size", "9KB", "--out", "o", "--limit", "9"], "--limit", "--calibrate"),
        (
            ["skill", "localise", "s", "--base", "b", "--tasks", "t", "--out", "o", "--steps", "9"],
            "--steps",
            "--by graft",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_an_option_that_says_nothing_without_another_is_not_passed_over(
    cli: Callable[..., Any], call: list[str], option: str, other: str
) -> None:
    answer = cli(*call)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"error: {option}: has no effect without {other}. Add {other}, or leave it out.\n"


def test_settings_are_read_as_yaml_and_each_once() -> None:
    found = options.settings(["steps=10", "choice=top", "rates=[0.1, 1e-3]", "none=null", "empty=", "odd=!!int abc"])
    assert found == {
        "steps": 10, "choice": "top", "rates": [0.1, "1e-3"], "none": None, "empty": None, "odd": "!!int abc",
    }  # fmt: skip
    assert options.settings(["deep=" + "[" * 5000]) == {"deep": "[" * 5000}

    class Texts(BaseModel):
        mark: str
        other: str | None = None
        number: int | str = 0

    typed = ["mark=#", "other=~", "number=1"]
    assert options.settings(typed, Texts) == {"mark": "#", "other": "~", "number": 1}
    assert options.settings(["mark=null", "other=null"], Texts) == {"mark": "null", "other": None}
    assert options.settings(["mark='1'", "other=2026-01-01", "new=1"], Texts) == {
        "mark": "1", "other": "2026-01-01", "new": 1,
    }  # fmt: skip
    with pytest.raises(InputError, match="--set: steps is set twice"):
        options.settings(["steps=1", "steps=2"])
