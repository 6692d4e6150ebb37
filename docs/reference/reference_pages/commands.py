"""The page of commands, from what `--help` prints."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from genepool.cli.main import build_app
from genepool.cli.options import Panel
from reference_pages import NOTE
from reference_pages.words import plain, type_in_words

_COMMANDS_INTRO = """\
`genepool COMMAND --help` prints the same.

| exit code | meaning |
|--:|---|
| 0 | success |
| 1 | a gate or a check failed |
| 2 | the input is wrong |
| 3 | genepool has a fault |
| 130 | you pressed Ctrl-C, or the command got SIGTERM |

An error is one line on stderr. With `--json` a command prints one JSON object on stdout. It contains `"schema": 1`.
Every command that writes a path takes it as `--out`. If the path is also the last argument, you may use either.

`genepool --install-completion` lets your shell (bash, zsh, fish or PowerShell) complete commands and options.
`genepool --show-completion` prints what it would install.
"""


def commands_page() -> str:
    app = typer.main.get_command(build_app())
    parts = [NOTE, "", "# Commands", "", _COMMANDS_INTRO]
    commands = app.commands  # type: ignore[attr-defined]
    for panel in Panel:
        names = sorted(name for name, command in commands.items() if command.rich_help_panel == panel)
        parts += [f"## {panel}", ""]
        for name in names:
            for words, command in _below(commands[name], (name,)):
                parts += _command(words, command)
    parts += ["## Of genepool itself", "", *_parameters([one for one in app.params if one.param_type_name == "option"])]
    return "\n".join(parts).rstrip() + "\n"


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _below(inner, (*words, name))


def _command(words: tuple[str, ...], command: Any) -> list[str]:
    lines = [f"### genepool {' '.join(words)}", "", *_prose(command.help)]
    if hasattr(command, "commands"):
        return [*lines, *(f"- [genepool {' '.join(words)} {name}](#genepool-{'-'.join(words)}-{name})"
                          for name in sorted(command.commands)), ""]  # fmt: skip
    return lines + _parameters(command.params)


def _prose(text: str) -> list[str]:
    """A command's docstring as Markdown: its indented examples in one block."""
    lines: list[str] = []
    block = False
    for line in text.replace("[bold]", "**").replace("[/bold]", "**").splitlines():
        indented = line.startswith("    ")
        if indented and not block:
            lines.append("```console")
        if line and not indented and block:
            lines += ["```", ""]
        block = indented or (block and not line)
        if not (block and not line):
            # A placeholder such as full/<skill> is no HTML.
            lines.append(line.removeprefix("    ") if block else line.replace("<", "&lt;"))
    return [*lines, *(["```"] if block else []), ""]


def _parameters(parameters: list[Any]) -> list[str]:
    lines = ["| | value | default | meaning |", "|---|---|---|---|"]
    for one in parameters:
        if one.param_type_name == "argument":
            name = f"`{(one.metavar or one.name).upper()}`"
        else:
            name = " / ".join(f"`{spelling}`" for spelling in (*one.opts, *one.secondary_opts))
        is_flag = one.type_descriptor.annotation is bool
        default = "required" if one.required else _shown(one.default)
        value = "" if is_flag else _value(one)
        lines.append(f"| {name} | {value} | {default} | {one.help} |")
    return [*lines, ""]


def _shown(default: Any) -> str:
    if default is None or default is False:
        return ""
    return f"`{default.value if isinstance(default, Enum) else plain(default)}`"


def _value(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    several = get_origin(kind) is list
    inner = get_args(kind)[0] if several else kind
    if isinstance(inner, type) and issubclass(inner, Enum):
        return " or ".join(f"`{one.value}`" for one in inner)
    name = {Path: "path"}.get(inner) or type_in_words(inner)
    return f"{name}, several" if several else name
