"""A reader that leaves early is no error, and the shell completes what it is typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from calls_in_tests import options_of

from genepool.cli.main import build_app

# Whatever lists: some print through rich, some by themselves, one long line or many.
LISTING = ["--help", "--version", "methods", "methods ties", "methods --json", "strategies", "strategies cma_es --json"]
LISTING += ["library list --library lib", "plan r.yaml", "skill --help"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("pipes")
    for name, size in (("m", 4), ("other", 5)):
        (folder / name).mkdir()
        save_file({"model.norm.weight": torch.ones(size)}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
    (folder / "r.yaml").write_text("genepool: 1\nmethod: linear\nmodels: [m]\n")
    subprocess.run([sys.executable, "-m", "genepool", "library", "init", "--library", "lib"], cwd=folder, check=True)
    return folder


def _unread(line: str, place: Path, *, buffered: bool) -> subprocess.CompletedProcess[str]:
    """The reading end is closed before anything is written, as `| true` does it."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "genepool", *line.split()]
    done = subprocess.run(
        command, cwd=place, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    return done


@pytest.mark.parametrize(
    ("line", "buffered"),
    [
        pytest.param(line, buffered, marks=[] if line in LISTING[:3] and buffered else [pytest.mark.slow])
        for line in LISTING
        for buffered in (True, False)
    ],
)
def test_a_reader_that_leaves_is_no_error(line: str, buffered: bool, place: Path) -> None:
    done = _unread(line, place, buffered=buffered)
    # The models of this place have no config, which is said.
    said = [text for text in done.stderr.splitlines() if not text.startswith("note: ")]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(
    "buffered", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["buffered", "unbuffered"]
)
def test_a_check_that_failed_fails_though_nobody_reads(buffered: bool, place: Path) -> None:
    done = _unread("inspect m other", place, buffered=buffered)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def _completed(words: str, place: Path) -> set[str]:
    """What bash is offered after these words."""
    environment = {**os.environ, "_GENEPOOL_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run(
        [sys.executable, "-m", "genepool"], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_shell_is_offered_commands_and_options(place: Path) -> None:
    every = dict(options_of(typer.main.get_command(build_app())))
    assert _completed("genepool ", place) == {words[0] for words in every if len(words) == 1}
    assert _completed("genepool me", place) == {"measure", "merge", "methods"}
    assert _completed("genepool skill ne", place) == {"negate"}
    assert _completed("genepool library search --h", place) == {"--hits", "--help"}
    # An old spelling works, and is not offered.
    assert "--limit" not in _completed("genepool library search --l", place)


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(
        [sys.executable, "-m", "genepool", "--show-completion", "bash"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "complete -o default -F _genepool_completion genepool" in shown.stdout
    installed = subprocess.run(
        [sys.executable, "-m", "genepool", "--install-completion", "bash"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (installed.returncode, installed.stderr) == (0, "")
    (script,) = (path for path in tmp_path.rglob("genepool*") if path.is_file())
    assert "_genepool_completion" in script.read_text()


def _with_streams(line: str, place: Path, redirections: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -m genepool {line} {redirections}', sys.executable],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "redirections", "said"),
    [
        ("methods --json", ">/dev/full", "standard output: No space left on device."),
        ("methods --json", ">&-", "standard output is closed."),
        pytest.param("methods", ">/dev/full", "standard output: No space left on device.", marks=pytest.mark.slow),
        pytest.param("--help", ">/dev/full", "standard output: No space left on device.", marks=pytest.mark.slow),
        pytest.param("nothing", ">/dev/full", "No such command 'nothing'.", marks=pytest.mark.slow),
        pytest.param("inspect nothing", ">&- <&-", "standard output is closed.", marks=pytest.mark.slow),
    ],
)
def test_output_that_goes_nowhere_is_one_line(line: str, redirections: str, said: str, place: Path) -> None:
    done = _with_streams(line, place, redirections)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {said}")


@pytest.mark.slow
@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-", ">/dev/null 2>&-"])
def test_without_a_place_for_errors_the_exit_code_still_tells(redirections: str, place: Path) -> None:
    assert _with_streams("methods ties", place, redirections).returncode == 0
    assert _with_streams("inspect nothing", place, redirections).returncode == 2


def test_text_that_the_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "genepool", "inspect", "modèle"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "mod\\xe8le" in done.stderr


#: Code of the user's that never ends, as a stand-in for a long command; {} is what it does about an interrupt.
_ENDLESS = """
import os, threading
said = b"begun\\n"
while True:
    try:
        os.write(2, said)
        threading.Event().wait()
    except KeyboardInterrupt:
        said = b""
        os.write(2, b"told\\n")
        {}
"""


def _endless(tmp_path: Path, about_interrupts: str) -> Any:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(_ENDLESS.format(about_interrupts))
    command = ["evaluate", "model", "--tasks", "tasks", "--plugin", str(plugin)]
    return subprocess.Popen(
        [sys.executable, "-m", "genepool", *command],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Where the tests run in the background, a shell has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _heard(process: Any, word: str) -> None:
    said = process.stderr.readline()
    assert said == f"{word}\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_a_command_in_one_line(number: signal.Signals, tmp_path: Path) -> None:
    process = _endless(tmp_path, "raise")
    _heard(process, "begun")
    process.send_signal(number)
    _heard(process, "told")
    out, err = process.stdout.read(), process.stderr.read()
    assert (process.wait(), out) == (130, "")
    assert err == "error: interrupted. Nothing was left half-written; run the same command to go on.\n"


@pytest.mark.slow
def test_a_second_interrupt_ends_what_does_not_want_to_end(tmp_path: Path) -> None:
    process = _endless(tmp_path, "pass")
    _heard(process, "begun")
    process.send_signal(signal.SIGINT)
    _heard(process, "told")
    process.send_signal(signal.SIGINT)
    out, err = process.stdout.read(), process.stderr.read()
    assert (process.wait(), out) == (130, "")
    assert err == "error: interrupted twice. What was finished is kept; run the same command to go on.\n"


#: A package that is interrupted while it is imported, by as many signals as the environment says.
_IMPORTED = """
import os, signal
from slow import part
for _ in range(int(os.environ["TIMES"])):
    os.kill(os.getpid(), signal.SIGTERM)
import slow.part
done = sorted(range(3))
"""


@pytest.mark.parametrize(("times", "code", "out"), [(0, 0, "on True"), (1, 0, "told True"), (2, 130, "")])
def test_an_interrupt_waits_for_the_end_of_an_import(times: int, code: int, out: str, tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "__init__.py").write_text("from slow.whole import done\n")
    (tmp_path / "slow" / "part.py").write_text("")
    (tmp_path / "slow" / "whole.py").write_text(_IMPORTED)
    lines = [
        "import sys",
        "from genepool.process import listen",
        "listen()",
        "try:",
        "    import slow",
        "    said = 'on'",
    ]
    lines += ["except KeyboardInterrupt:", "    said = 'told'"]
    lines += ["print(said, sys.modules['slow'].done == [0, 1, 2], sys.getprofile() or '')"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={**os.environ, "TIMES": str(times)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (code, out)
    assert done.stderr == (
        "error: interrupted twice. What was finished is kept; run the same command to go on.\n" * (times == 2)
    )


#: A signal when all is done: while what is registered runs, and while Python takes itself apart.
_AT_THE_END = {
    "registered": "atexit.register(os.kill, os.getpid(), signal.{})",
    "apart": "Late = type('Late', (), dict(__del__=lambda self: os.kill(os.getpid(), signal.{}))); late = Late()",
}


@pytest.mark.parametrize("when", _AT_THE_END)
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 0), ("SIGINT", 1), ("SIGINT", 130)])
def test_a_signal_at_the_very_end_changes_nothing(when: str, number: str, code: int) -> None:
    lines = ["import atexit, os, signal, sys", "from genepool.process import leave, listen", "listen()"]
    lines += ["signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))", _AT_THE_END[when].format(number)]
    lines += ["print('all of it')", f"leave({code})"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "all of it\n", "")


@pytest.mark.slow
def test_an_interrupt_that_was_to_be_ignored_is_ignored(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", "trap '' INT; \"$0\" -c 'import os, signal; from genepool.process import listen; listen(); "
         "os.kill(os.getpid(), signal.SIGINT); print(\"on\")'", sys.executable],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


def test_a_folder_that_is_gone_is_told(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: linear\nmodels: [a, b]\n")
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answer = cli("merge", recipe, "out")
    assert (answer.code, answer.err) == (2, "error: the folder you are in is gone. Change to one that is there.\n")
