"""`Writing`: a command that writes, as the harness knows it; and what all commands and their options are called."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Writing:
    """A command that writes.

    Attributes:
        name: what the tests call it.
        typed: the command line.
        other: one that writes to the same place, with another result; the same command again when empty.
        needs: files and folders of the world that are copied into its folder first.
        parts: folders whose files appear one after another; any other folder appears whole or not at all.
        stays: patterns of partial files and locks that may remain, and of files that a kill may leave there.
        mended: a command that clears up after a kill, run before the end is compared.
        anew: whether --overwrite clears the place before it begins.
        either: whether it writes a small file in one go, so that of two that race both may end well, and the result of
            one of them stands.
        long: whether it takes too long for the sample in the slow tests.
    """

    name: str
    typed: str
    other: str = ""
    needs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    mended: str = ""
    anew: bool = False
    either: bool = False
    long: bool = False

    def __str__(self) -> str:
        return self.name

    def overwrites(self) -> bool:
        """Whether it can be told to replace what the other one wrote."""
        lines = (self.typed, self.other) if self.other else ()
        return bool(lines) and all("--overwrite" in options_of_commands()[command_of(line)] for line in lines)


@functools.cache
def options_of_commands() -> dict[str, set[str]]:
    """The options of every command there is, by what is typed."""
    import typer

    from genepool.cli.main import build_app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            yield " ".join(words), {option for parameter in command.params for option in parameter.opts}

    return dict(walk(typer.main.get_command(build_app()), ()))


def command_of(line: str) -> str:
    """Which command a command line runs."""
    words = shlex.split(line)
    (found,) = {" ".join(words[:n]) for n in (1, 2)} & set(options_of_commands())
    return found
