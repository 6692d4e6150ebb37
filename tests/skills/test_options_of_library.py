"""The options of `genepool library`: each does what it says, in every command that has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_skills import skill

from genepool.skills.library import Library

Cli = Callable[..., Any]


@pytest.fixture
def world(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test stands in a folder with two libraries of the skills `one` and `two`: `named`, and the environment's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENEPOOL_LIBRARY", "usual")
    for seed, name in enumerate(("one", "two")):
        skill(Path(f"{name}.safetensors"), seed, description=f"Skill {name}")
    for folder in ("usual", "named"):
        Library.create(folder)
        with Library(folder) as library:
            for name in ("one", "two"):
                library.add(f"{name}.safetensors")
    return tmp_path


def _names(folder: str) -> list[str]:
    with Library(folder) as library:
        return [kept.name for kept in library.catalogue.all()]


def _told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    (line,) = answer.out.splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told["schema"] == 1
    return told


@pytest.mark.usefixtures("world")
def test_the_library_that_is_named_is_the_one_that_changes(cli: Cli) -> None:
    told = _told(cli("library", "rm", "one", "--library", "named", "--json"))
    assert (told["library"], told["removed"]) == ("named", "one")
    assert (_names("named"), _names("usual")) == (["two"], ["one", "two"])
    assert "1 skills, all whole" in cli("library", "check", "--library", "named").out
    assert "2 skills, all whole" in cli("library", "check").out
    assert len(_told(cli("library", "map", "--out", "named.svg", "--library", "named", "--json"))["skills"]) == 1
    assert len(_told(cli("library", "map", "--out", "usual.svg", "--json"))["skills"]) == 2
    assert cli("library", "export", "one", "--out", "exported", "--library", "named").code == 2
    assert cli("library", "export", "two", "--out", "exported", "--library", "named").code == 0
    assert Path("exported", "skill.safetensors").read_bytes() == Path("two.safetensors").read_bytes()


@pytest.mark.usefixtures("world")
def test_removing_tells_what_was_removed(cli: Cli) -> None:
    digest = json.loads(cli("library", "show", "one", "--json").out)["digest"]
    assert _told(cli("library", "rm", "one", "--json")) == {
        "schema": 1, "library": "usual", "removed": "one", "digest": digest,
    }  # fmt: skip


@pytest.mark.usefixtures("world")
def test_a_map_is_replaced_when_that_is_said(cli: Cli) -> None:
    Path("map.svg").write_text("old")
    refused = cli("library", "map", "--out", "map.svg")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert Path("map.svg").read_text() == "old"
    assert cli("library", "map", "--out", "map.svg", "--overwrite").code == 0
    assert "<svg" in Path("map.svg").read_text()


@pytest.mark.usefixtures("world")
def test_no_more_is_found_than_is_wanted(cli: Cli) -> None:
    _told(cli("library", "add", skill(Path("three.safetensors"), 3, description="Skill three"), "--json"))
    for more in (["--text", "skill"], ["--like", "one.safetensors"]):
        every = _told(cli("library", "search", *more, "--json"))["hits"]
        assert len(every) >= 2
        assert _told(cli("library", "search", *more, "--hits", 1, "--json"))["hits"] == every[:1]
        assert cli("library", "search", *more, "--hits", 0).code == 2


@pytest.mark.usefixtures("world", "loud")
@pytest.mark.parametrize(
    "call",
    [
        ["library", "add", "three.safetensors"],
        ["library", "import", "three.safetensors"],
        ["library", "show", "one", "--against", "two"],
        ["library", "search", "--like", "one.safetensors"],
        ["library", "check"],
    ],
    ids=" ".join,
)
def test_quiet_is_without_progress(cli: Cli, call: list[str]) -> None:
    skill(Path("three.safetensors"), 3)
    assert cli(*call, "--library", "named").err
    quiet = cli(*call, "--library", "usual", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out
