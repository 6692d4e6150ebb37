"""The `genepool` command: finds the commands beside this file and turns errors into one line and an exit code.

A command is a file in this folder, or in its group's, with a function of the file's name; a group is a folder whose
docstring is its help. Both are found by being there. A trailing underscore, for words of Python's own, is not typed. A
command may import typer, `options`, `tables` and its group's `common` at the top and everything heavy inside its
function, so that `genepool --help` needs neither torch nor transformers. `PANEL` says where in that help it stands, and
`OLD_SPELLINGS` which options it once called otherwise.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from genepool import cli as commands
from genepool import process, progress
from genepool.checked import printable
from genepool.cli.options import Panel
from genepool.errors import GenepoolError

_NOT_COMMANDS = {"main", "options", "tables", "common"}
#: A word longer than any path that a system takes: the error around it would not be found.
_ENDLESS = re.compile(r"\S{4096,}")
#: What is wrong with a place, and not with genepool, wherever it is met; and the way out.
_PLACES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check the permissions of the file and of the folders above it."),
    errno.EROFS: "Name a place that can be written.",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space and run again."),
    errno.EIO: "Check the disk.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ELOOP: "Name a path without links that lead to themselves.",
}
#: Characters of a line that somebody still reads, and what is kept of a longer one.
_LONGEST, _HEAD, _TAIL = 1_800, 1_000, 600
_HELP = """\
New here? `genepool demo demo/` shows everything in minutes; `genepool inspect BASE TUNED ...` looks at your own models.

Merge, breed and measure fine-tuned models: one model that can do it all, from the many you have. `genepool COMMAND
--help` shows examples of a command, `genepool --install-completion` lets the shell complete its options.
"""


def build_app(only: str | None = None) -> typer.Typer:
    """The typer application with every command of this folder registered.

    Args:
        only: the one command, or group of commands, whose options are wanted; those of all commands when None.
    """
    app = typer.Typer(
        name="genepool",
        cls=_InPanels,
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    @app.callback(invoke_without_command=True)
    def top(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
        recheck: Annotated[
            bool,
            typer.Option("--recheck", help="Compute the fingerprints of all models anew."),
        ] = False,
    ) -> None:
        if recheck or "genepool.weights.fingerprint_cache" in sys.modules:
            from genepool.weights import fingerprint_cache

            fingerprint_cache.recheck(recheck)
        if version:
            from importlib.metadata import version as installed

            print(f"genepool {installed('genepool')}")
            raise typer.Exit

    _add_commands(app, commands, only)
    return app


def _add_commands(app: typer.Typer, package: ModuleType, only: str | None) -> None:
    for name, is_group in sorted((info.name, info.ispkg) for info in pkgutil.iter_modules(package.__path__)):
        if name in _NOT_COMMANDS:
            continue
        module = importlib.import_module(f"{package.__name__}.{name}")
        typed, panel = name.rstrip("_").replace("_", "-"), getattr(module, "PANEL", None)
        if is_group:
            group = typer.Typer(no_args_is_help=True, help=module.__doc__)
            _add_commands(group, module, None if only in (None, typed) else "")
            app.add_typer(group, name=typed, rich_help_panel=panel)
        else:
            spelled = _spelled(getattr(module, "OLD_SPELLINGS", {}))
            function = getattr(module, name)
            known = function if only in (None, typed) else _without_options(function)
            app.command(typed, cls=spelled, rich_help_panel=panel)(known)


def _without_options(function: Callable[..., None]) -> Callable[[], None]:
    """What the help of all commands says of one, whose options nobody asks for: typer takes 2 ms to read them."""

    def described() -> None:
        raise AssertionError(f"{function.__name__} was built without its options")

    described.__doc__ = function.__doc__
    return described


class _InPanels(TyperGroup):
    """The commands of the help, panel by panel."""

    def list_commands(self, ctx: Any) -> list[str]:
        panels = [None, *Panel]
        place = {
            name: panels.index(getattr(command, "rich_help_panel", None)) for name, command in self.commands.items()
        }
        return sorted(place, key=lambda name: (place[name], name))


def _spelled(old: Mapping[str, str]) -> type[TyperCommand]:
    """A command that takes options by the names they once had, and says so.

    Args:
        old: the old name of an option, such as "--limit", -> the one it has now.
    """

    class Spelled(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            progress.set_quiet(not {"--quiet", "-q"}.isdisjoint(args))
            return super().parse_args(ctx, [now_called(word) for word in args])

    def now_called(word: str) -> str:
        name, equals, value = word.partition("=")
        if name not in old:
            return word
        progress.message(f"note: {name} is called {old[name]} now.")
        return f"{old[name]}{equals}{value}"

    return Spelled if old else TyperCommand


@cache
def _command(build: Callable[[str | None], typer.Typer], only: str | None) -> Any:
    """The commands as they are run; built once in a process, since one that runs many would spend its time on that."""
    return typer.main.get_command(build(only))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 ok, 1 a check failed, 2 wrong input, 3 our fault, 130 Ctrl-C."""
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as left:
        # Typer leaves so after it has shown or installed the completion.
        return left.code if isinstance(left.code, int) else 0


def _run(arguments: list[str]) -> int:
    try:
        # The first word that is no option names the command; a shell that completes a line asks for any of them.
        word = next((word for word in arguments if not word.startswith("-")), "")
        only = None if "_GENEPOOL_COMPLETE" in os.environ else word
        result = _command(build_app, only).main(args=arguments, prog_name="genepool", standalone_mode=False)
        # Here, so that a full disk under stdout is an error like any other.
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except typer.TyperException as error:
        # Without any argument the help has been printed, and the message is empty.
        message = error.format_message()
        typed = getattr(getattr(error, "ctx", None), "command_path", "genepool")
        return _fail(f"{_flat(message)} Try '{typed} --help'.", 2) if message else 2
    except GenepoolError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if os.environ.get("GENEPOOL_DEBUG"):
            raise
        if isinstance(error, OSError) and not _has_folder():
            return _fail("the folder you are in is gone. Change to one that is there.", 2)
        if isinstance(error, OSError) and error.filename is not None and error.errno in _PLACES:
            return _fail(f"{os.fsdecode(error.filename)}: {_flat(error.strerror or '')} {_PLACES[error.errno]}", 2)
        where = f"{type(error).__name__}: {_flat(str(error))}"
        return _fail(f"{where} This is a fault of genepool's; set GENEPOOL_DEBUG=1 for the traceback.", 3)
    if result == 130:
        # Typer turns Ctrl-C inside a command into this result.
        return _interrupted()
    return result if isinstance(result, int) else 0


def _has_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def main() -> None:
    """The console script."""
    # Importing torch makes a million objects that stay; looking for garbage among them after every 700 was a fifth of
    # the start-up.
    gc.set_threshold(10_000, 20, 20)
    try:
        code = answer()
    except KeyboardInterrupt:
        code = _interrupted()
    process.leave(code)


def answer(arguments: Sequence[str] | None = None) -> int:
    """Runs one command as a process of its own does, with its signals and streams; returns the exit code of `run`."""
    process.listen()
    wrong = process.open_streams()
    return _fail(wrong, 2) if wrong else run(arguments)


def _fail(line: str, code: int) -> int:
    with suppress(GenepoolError):
        sys.stdout.flush()
    line = _ENDLESS.sub(lambda word: f"{word[0][:150]}... ({len(word[0]):,} characters)", printable(line))
    if len(line) > _LONGEST:
        # The place stands in front, and the way out at the end.
        line = f"{line[:_HEAD]} ... ({len(line):,} characters) ... {line[-_TAIL:]}"
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code


def _interrupted() -> int:
    return _fail("interrupted. Nothing was left half-written; run the same command to go on.", 130)


def _flat(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else line + "."
