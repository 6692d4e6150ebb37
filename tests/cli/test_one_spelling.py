"""One spelling for one thing: --out, --tasks, --limit, --quiet; old spellings still work, and say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from calls_in_tests import options_of

from genepool.cli.main import build_app

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("call", "old", "new"),
    [
        (["library", "search", "--text", "a"], ["--limit", "3"], "--hits"),
        (["library", "search"], ["--task", "nowhere", "--base", "b"], "--tasks"),
        (["skill", "compress", "s", "--out", "o.safetensors"], ["--budget=9KB"], "--size"),
        (["evaluate", "m", "--tasks", "nowhere", "--race"], ["--risk", "0.1"], "--race-error"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_old_spelling_means_the_new_one_and_says_so(
    cli: Cli, call: list[str], old: list[str], new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, _, value = old[0].partition("=")
    said = cli(*call, *[new + ("=" + value if value else ""), *old[1:]])
    assert said.code == 2
    answer = cli(*call, *old)
    assert (answer.code, answer.out) == (said.code, said.out)
    assert answer.err == f"note: {name} is called {new} now.\n{said.err}"
    assert cli(*call, *old, "--quiet").err == said.err
    assert name not in cli(*call[:2], "--help").out.split()


def test_what_is_no_option_is_no_old_spelling(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "note" not in cli("skill", "show", "--", "--budget").err
    assert cli("merge", "--limit", "3").err.startswith("error: No such option: --limit")


@pytest.fixture
def recipe(save_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_model("m", {"model.norm.weight": torch.ones(4)})
    Path("r.yaml").write_text("genepool: 1\nmethod: linear\nmodels: [m]\n")
    return Path("r.yaml")


def test_a_merge_goes_where_the_argument_or_the_option_says(cli: Cli, recipe: Path) -> None:
    assert cli("merge", recipe, "one").code == cli("merge", recipe, "--out", "two").code == 0
    one, two = (Path(name, "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert str(Path("two")) in cli("merge", recipe, "--out", "two", "--overwrite", "--json").out


def test_outcomes_go_where_the_option_says(cli: Cli, tmp_path: Path) -> None:
    from genepool.tasks import Ledger, Outcome

    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.record("f", "model", "task", "asked", [("key", "id", Outcome(1.0))])
    rows = tmp_path / "rows.jsonl"
    assert cli("outcomes", "export", "--out", rows, "--ledger", tmp_path / "l.sqlite").code == 0
    assert rows.read_text().count("\n") == 1


def test_a_testbed_is_built_where_the_option_says(cli: Cli, tiny_testbed: Any) -> None:
    told = json.loads(cli("testbed", "build", "--tiny", "--out", tiny_testbed.folder, "--json").out)
    assert (told["cached"], told["folder"]) == (True, str(tiny_testbed.folder))


def test_a_demo_is_written_where_the_option_says(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for call in (["demo", "--out", tmp_path / "file"], ["demo", tmp_path / "file"]):
        answer = cli(*call)
        assert (answer.code, answer.err) == (
            2,
            f"error: {tmp_path / 'file'}: is a file, expected a folder. Name a folder.\n",
        )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (["merge", "r.yaml"], "OUT"),
        (["outcomes", "export"], "FILE"),
        (["testbed", "build"], "DIR"),
        (["demo"], "FOLDER"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_one_place_to_write_is_needed(cli: Cli, call: list[str], name: str) -> None:
    answer = cli(*call)
    wanted = f"error: Missing argument '{name}'. Name the path to write, there or with --out.\n"
    assert (answer.code, answer.out, answer.err) == (2, "", wanted)
    answer = cli(*call, "a", "--out", "b")
    wanted = f"error: --out: got a as {name} and b as --out. Give one of them.\n"
    assert (answer.code, answer.out, answer.err) == (2, "", wanted)


def test_every_command_takes_quiet_by_both_its_names() -> None:
    found = {words: set(spellings) for words, spellings in options_of(typer.main.get_command(build_app()))}
    assert not [words for words, spellings in found.items() if "--json" in spellings and "-q" not in spellings]
    assert not [words for words, spellings in found.items() if ("-q" in spellings) != ("--quiet" in spellings)]


@pytest.mark.parametrize(
    "call",
    [
        ["methods", "ties", "-q"],
        ["strategies", "cma_es", "-q"],
        ["library", "init", "-q"],
        ["library", "list", "-q"],
        ["library", "map", "--out", "map.svg", "-q"],
        ["library", "export", "one", "--out", "exported", "-q"],
        ["library", "rm", "one", "-q"],
        ["skill", "show", "one.safetensors", "-q"],
        ["top", "run", "--once", "-q"],
    ],
    ids=" ".join,
)
def test_a_quiet_command_keeps_its_results_and_its_errors(
    cli: Cli, call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loud, quiet = cli(*call[:-1]), cli(*call)
    assert quiet.code == loud.code
    assert quiet.err == loud.err
    assert bool(quiet.out) == (quiet.code == 0)
