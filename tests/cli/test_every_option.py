"""Every option of every command is passed by a test that goes through the command a user types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from calls_in_tests import Option, options_of, untested

from genepool.cli.main import build_app

SOURCES = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.parent.rglob("test_*.py"))]


@pytest.mark.slow
def test_no_option_is_without_a_test() -> None:
    """Beside a command that is made up here, so that an option nobody passes is seen to be found."""
    app = build_app()

    @app.command("made-up")
    def command(option: Annotated[bool, typer.Option("--nobody-passes-this/--nor-this")] = False) -> None: ...

    found = untested(typer.main.get_command(app), SOURCES)
    missing = [f"genepool {command} {spelling}" for command, spelling in found if command != "made-up"]
    assert not missing, f"no test passes {', '.join(missing)}"
    assert found == [Option("made-up", "--nobody-passes-this"), Option("made-up", "--nor-this")]


def made_up() -> typer.Typer:
    """Two commands in a group: `g one` with --count, --deep/--flat and -q; `g two` with --count."""
    app, group = typer.Typer(add_completion=False), typer.Typer()

    @group.command()
    def one(
        name: str,
        count: Annotated[int, typer.Option("--count")] = 1,
        deep: Annotated[bool, typer.Option("--deep/--flat")] = True,
        quiet: Annotated[bool, typer.Option("--quiet", "-q")] = False,
    ) -> None: ...

    @group.command()
    def two(count: Annotated[int, typer.Option("--count")] = 1) -> None: ...

    @app.callback()
    def top(version: Annotated[bool, typer.Option("--version")] = False) -> None: ...

    app.add_typer(group, name="g")
    return app


EVERY = {
    Option("", "--version"), Option("g one", "--count"), Option("g one", "--deep"), Option("g one", "--flat"),
    Option("g one", "--quiet"), Option("g two", "--count"),
}  # fmt: skip


def test_the_options_are_those_of_the_commands_with_either_side_of_a_pair_and_without_help() -> None:
    found = dict(options_of(typer.main.get_command(made_up())))
    assert {option for spellings in found.values() for option in spellings.values()} == EVERY
    assert found["g", "one"]["-q"] == Option("g one", "--quiet")


@pytest.mark.parametrize(
    ("source", "passed"),
    [
        ('cli("g", "one", "x", "--count", 3)', {("g one", "--count")}),
        ('cli("g", "one", x, "-q", "--flat")', {("g one", "--quiet"), ("g one", "--flat")}),
        ('cli("--version")', {("", "--version")}),
        ('cli("g", "two", f"--count={n}")', {("g two", "--count")}),
        ('from genepool.cli.main import run as command\ncommand(["g", "two", "--count", "3"])', {("g two", "--count")}),
        ('subprocess.run([sys.executable, "-m", "genepool", "g", "two", "--count"])', {("g two", "--count")}),
        # Names are followed to what they stand for.
        ('call = ["g", "one", "x"]\ndef test_a(cli):\n    cli(*call, "--deep")', {("g one", "--deep")}),
        ('def test_a(cli):\n    call = ("g", "two")\n    cli(*call, *["--count", 1])', {("g two", "--count")}),
        (
            'def ask(cli, word, *more):\n    return cli("g", word, "x", *more)\nask(cli, "one", "-q")',
            {("g one", "--quiet")},
        ),
        (
            '@pytest.fixture\ndef ask(cli):\n    def run(*more, **changes):\n        return cli("g", "two", *more)\n'
            '    return run\ndef test_a(ask):\n    ask("--count", 1)',
            {("g two", "--count")},
        ),
        (
            '@pytest.fixture\ndef more():\n    return ["--count", 1]\n'
            'def test_a(cli, more):\n    cli("g", "two", *more)',
            {("g two", "--count")},
        ),
        # Words of a row belong together.
        (
            'for word, more in (("one", ["--deep"]), ("two", ["--count", 1])):\n    cli("g", word, *more)',
            {("g one", "--deep"), ("g two", "--count")},
        ),
        (
            'ROWS = [("one", ["--flat"]), pytest.param("two", ["--count"], id="x")]\n'
            '@pytest.mark.parametrize(("word", "more"), ROWS)\n'
            'def test_a(cli, word, more):\n    cli("g", word, *more)',
            {("g one", "--flat"), ("g two", "--count")},
        ),
        # What runs no command, another command or nobody knows what does not count.
        ('call = ["g", "one", "--count", "--flat"]', set()),
        ('print("g", "one", "--count")', set()),
        ('run(["g", "one", "--count"])', set()),
        ('subprocess.run(["g", "one", "--count"])', set()),
        ('cli("g", "two", "--deep", "--quiet")', set()),
        ('cli("g", word, "--count")', set()),
        ('cli(*words, "--count")', set()),
        ('cli("g", "one", "x", *more)', set()),
        ('cli("g", "one", text("--count"))', set()),
        ('def test_a(cli):\n    call = ["g", "two", "--count"]\n    call = ["g", "one"]\n    cli(*call)', set()),
        # A test that may be skipped shows nothing.
        ('@pytest.mark.skipif(slow, reason="")\ndef test_a(cli):\n    cli("g", "two", "--count", 1)', set()),
        ('pytestmark = pytest.mark.skipif(slow, reason="")\ncli("g", "two", "--count", 1)', set()),
    ],
)  # fmt: skip
def test_an_option_counts_where_a_call_runs_its_command(source: str, passed: set[tuple[str, str]]) -> None:
    assert EVERY - set(untested(typer.main.get_command(made_up()), [source])) == passed
