"""A negative seed is one clear refusal in every command that takes one, before anything else is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer
from calls_in_tests import options_of

from genepool.cli.main import build_app

COMMANDS = [words for words, spellings in options_of(typer.main.get_command(build_app())) if "--seed" in spellings]


def test_many_commands_take_a_seed() -> None:
    assert len(COMMANDS) > 10
    assert ("merge",) in COMMANDS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_negative_seed_is_refused(words: tuple[str, ...], cli: Callable[..., Any]) -> None:
    answer = cli(*words, "--seed", -1)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "error: --seed: must be at least 0, got -1. Give 0 or more.\n"
