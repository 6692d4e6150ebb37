"""The command line's promises: one error line, the agreed exit codes, and a light start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer

from genepool.cli import main as command_line
from genepool.errors import CheckFailed, InputError


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
    def broken() -> typer.Typer:
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


def test_version(cli: Callable[..., Any]) -> None:
    assert cli("--version").out.startswith("genepool ")
