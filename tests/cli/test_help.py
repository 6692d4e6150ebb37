"""The help: panels, a first line that says what to do next, and options that say in one sentence what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from rich.text import Text
from typer.core import TyperGroup

from genepool.cli.main import build_app
from genepool.cli.options import Panel

Cli = Callable[..., Any]

# How the help of an option may begin; a new verb goes here.
VERBS = {
    "Add", "Allow", "Apply", "Build", "Call", "Check", "Choose", "Colour", "Compare", "Compute", "Count", "Describe",
    "Divide", "Draw", "End", "Evaluate", "Find", "Fit", "Keep", "Learn", "List", "Mark", "Measure", "Merge",
    "Minimise", "Multiply", "Name", "Open", "Order", "Pack", "Plan", "Predict", "Print", "Put", "Rank", "Read",
    "Record", "Repair", "Repeat", "Replace", "Run", "Sample", "Set", "Show", "Split", "Start", "Stop", "Store", "Tag",
    "Take", "Test", "Train", "Update", "Use", "Validate", "Write",
}  # fmt: skip


def _parameters() -> Iterator[tuple[str, Any]]:
    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for parameter in command.params:
            if "--help" not in parameter.opts:
                yield " ".join(words), parameter
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    yield from walk(typer.main.get_command(build_app()), ("genepool",))


def test_the_help_of_an_option_is_an_imperative_sentence_of_one_line() -> None:
    wrong = []
    for command, parameter in _parameters():
        text = parameter.help or ""
        first = text.partition(" ")[0]
        spelled = first in VERBS if parameter.param_type_name == "option" else first[:1].isupper()
        # Typer's own two options are not ours to word.
        if parameter.name in ("install_completion", "show_completion"):
            continue
        if not (spelled and text.endswith(".") and "\n" not in text and len(text) <= 100):
            wrong.append(f"{command} {parameter.opts[0]}: {text!r}")
    assert not wrong, "begin with a verb (VERBS), end with a full stop, in at most 100 characters:\n" + "\n".join(wrong)


def test_no_word_of_a_help_is_lost_as_markup() -> None:
    """rich takes [likelihood] for a style, and the help then says nothing there."""
    lost = [
        f"{command} {parameter.opts[0]}: {parameter.help!r}"
        for command, parameter in _parameters()
        if parameter.help and Text.from_markup(parameter.help).plain != parameter.help
    ]
    assert not lost


def test_an_option_that_means_the_same_says_the_same() -> None:
    """What every command has is defined once, in cli/options.py."""
    said: dict[str, set[str]] = {}
    for _, parameter in _parameters():
        said.setdefault(parameter.opts[0], set()).add(parameter.help or "")
    shared = "json quiet overwrite allow-pickle trust-tasks plugin task split batch-size as-lora library bits gate"
    assert {name: texts for name, texts in said.items() if name[2:] in shared.split() and len(texts) > 1} == {
        # Of lm-eval's samples, not of --tasks.
        "--task": said["--task"]
    }
    assert len(said["--task"]) == 2


def test_every_command_stands_in_a_panel(cli: Cli) -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    assert not [name for name, command in commands.items() if command.rich_help_panel not in list(Panel)], (
        "say PANEL = options.Panel... in the command's file"
    )
    out = cli("--help").out
    places = [out.index(f"─ {panel} ─") for panel in Panel]
    assert places == sorted(places)


def test_the_first_line_says_what_to_do_next(cli: Cli) -> None:
    words = cli("--help").out.split("[ARGS]...")[1].split()
    assert words[:5] == ["New", "here?", "`genepool", "demo", "demo/`"]


@pytest.mark.parametrize(
    "command", [["skill"], ["library"], ["measure"], ["outcomes"], ["testbed"]], ids=lambda c: c[0]
)
def test_a_group_lists_its_commands(cli: Cli, command: list[str]) -> None:
    inner = typer.main.get_command(build_app()).commands[command[0]].commands  # type: ignore[attr-defined]
    assert set(inner) <= set(cli(*command, "--help").out.split())


def test_a_command_that_is_built_alone_is_as_among_all() -> None:
    whole, alone = (typer.main.get_command(build_app(only)) for only in (None, "skill"))
    assert isinstance(whole, TyperGroup)
    assert isinstance(alone, TyperGroup)
    inside, same = whole.commands["skill"], alone.commands["skill"]
    assert isinstance(inside, TyperGroup)
    assert isinstance(same, TyperGroup)
    for name, command in inside.commands.items():
        assert [one.opts for one in command.params] == [one.opts for one in same.commands[name].params]
    # Of the others, what the help of all commands says.
    assert not alone.commands["merge"].params
    assert {name: one.help for name, one in whole.commands.items()} == {
        name: one.help for name, one in alone.commands.items()
    }
