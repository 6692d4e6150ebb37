"""A library may come from a stranger: no row of it is believed unchecked, and none leads out of the folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_skills import skill

from genepool.errors import InputError
from genepool.skills.library import Library

Cli = Callable[..., Any]
SOUND = "a" * 64
# (column, value): what SQLite keeps without a word.
DAMAGE: list[tuple[str, object]] = [
    ("digest", "../../../precious"),
    ("digest", "/etc/passwd"),
    ("digest", "A" * 64),
    ("digest", 7),
    ("digest", b"\x00" * 32),
    ("name", b"\xff\xfe"),
    ("name", "two\nlines"),
    ("name", "\x1b[31mred"),
    ("name", ""),
    ("form", "pickle"),
    ("base_name", b"blob"),
    ("bytes", -1),
    ("bytes", "many"),
    ("tensors", 2.5),
    ("added", b"now"),
    ("licence", b"MIT"),
    ("lineage", "[]"),
    ("lineage", "{"),
    ("lineage", "[" * 50_000),
    ("training", "3"),
    ("scores", '{"reverse": "best"}'),
    ("scores", '{"reverse": NaN}'),
    ("scores", '{"reverse": -5}'),
    ("bytes", 9 * 10**18),
    ("scores", '{"reverse": 1e999}'),
    ("scores", b"{}"),
    ("tags", '{"a": 1}'),
    ("tags", "[1, 2]"),
    ("error", "nothing"),
    ("error", -0.5),
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of two skills, "good" and "bad"."""
    place = tmp_path_factory.mktemp("pristine")
    Library.create(place / "library")
    with Library(place / "library") as library:
        for i, name in enumerate(("good", "bad")):
            library.add(skill(place / f"{name}.safetensors", i, name=name), scores={"reverse": 0.5}, tags=["t"])
    return place / "library"


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    (tmp_path / "precious.safetensors").write_text("precious")
    return Path(shutil.copytree(pristine, tmp_path / "deep" / "library"))


def spoil(folder: Path, table: str, column: str, value: object, where: str) -> None:
    with sqlite3.connect(folder / "catalogue.sqlite") as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,))
    db.close()


@pytest.mark.parametrize(("column", "value"), DAMAGE)
def test_a_damaged_row_is_told_and_left_out(folder: Path, tmp_path: Path, cli: Cli, column: str, value: object) -> None:
    spoil(folder, "skills", column, value, "name = 'bad'")
    there = ("--library", folder)
    listed = cli("library", "list", *there, "--json")
    assert listed.code == 0
    assert [row["name"] for row in json.loads(listed.out)["skills"]] == ["good"]
    assert "is damaged and left out" in listed.err

    # By whatever name or digest it has now, and by its old name: refused or not there, never acted on.
    for reference in ("bad", value if isinstance(value, str) and column in ("name", "digest") else "bad"):
        for command in (("show", reference), ("rm", reference), ("export", reference, tmp_path / "out")):
            answer = cli("library", *command, *there)
            assert answer.code == 2, answer
            assert answer.err.strip().splitlines()[-1].startswith("error: ")
    for command in (("search", "--text", "t"), ("search", "--like", "good"), ("map", "--out", tmp_path / "map.svg")):
        assert cli("library", *command, *there).code == 0
    assert (tmp_path / "precious.safetensors").read_text() == "precious"
    assert not (tmp_path / "out").exists()

    found = cli("library", "check", *there, "--json")
    assert found.code == 1
    assert "catalogue" in {problem["kind"] for problem in json.loads(found.out)["problems"]}
    # The row goes, the file stays and is taken in anew.
    assert "its row was removed" in cli("library", "check", "--repair", *there).out
    assert cli("library", "check", *there).code == 0
    again = json.loads(cli("library", "list", *there, "--json").out)["skills"]
    assert [row["name"] for row in again] == ["bad", "good"]
    assert (tmp_path / "precious.safetensors").read_text() == "precious"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("whole", b"123"),
        ("whole", "text"),
        ("whole", b"\xff" * 4096),
        ("layers", b"1"),
        ("layer_names", "{"),
        ("squared", "x"),
    ],
)
def test_a_damaged_sketch_is_no_sketch(folder: Path, tmp_path: Path, cli: Cli, column: str, value: object) -> None:
    with Library(folder) as library:
        digest = library.find("bad").digest
    spoil(folder, "sketches", column, value, f"digest = '{digest}'")
    for command in (("search", "--like", "good"), ("map", "--out", tmp_path / "map.svg"), ("show", "bad")):
        assert cli("library", *command, "--library", folder).code == 0
    with Library(folder) as library:
        assert library.catalogue.sketch(digest) is None


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"


SCHEMAS = [
    (
        [f"CREATE TRIGGER t BEFORE DELETE ON skills BEGIN INSERT INTO parents SELECT x, 'y' FROM ({ENDLESS}); END"],
        "it holds a trigger",
    ),
    (["CREATE TRIGGER t BEFORE DELETE ON skills BEGIN SELECT raise(ABORT, 'no'); END"], "it holds a trigger"),
    (
        ["ALTER TABLE skills RENAME TO other", f"CREATE VIEW skills AS SELECT o.* FROM other o, ({ENDLESS})"],
        "it holds a view",
    ),
    (["DROP TABLE parents", "CREATE VIRTUAL TABLE parents USING fts5 (child, parent)"], "'parents' is virtual"),
]


@pytest.mark.parametrize(("statements", "said"), SCHEMAS)
def test_a_schema_that_acts_is_refused(folder: Path, cli: Cli, statements: list[str], said: str) -> None:
    with sqlite3.connect(folder / "catalogue.sqlite") as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    for command in (("list",), ("show", "bad"), ("rm", "bad"), ("check",), ("search", "--text", "t")):
        answer = cli("library", *command, "--library", folder)
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err


def test_what_is_no_file_is_told_and_left_alone(folder: Path, tmp_path: Path, cli: Cli) -> None:
    os.mkfifo(folder / "files" / "pipe.safetensors")
    os.mkfifo(folder / "files" / "pipe.partial")
    (folder / "files" / "folder.partial").mkdir()
    elsewhere = skill(tmp_path / "elsewhere.safetensors", 5)
    (folder / "files" / "link.safetensors").symlink_to(elsewhere)
    for repair in ((), ("--repair",)):
        answer = cli("library", "check", *repair, "--library", folder, "--json")
        assert answer.code == 1, answer.err
        problems = json.loads(answer.out)["problems"]
        assert sorted(problem["kind"] for problem in problems) == ["damaged", "orphan", "partial", "partial"]
    assert elsewhere.is_file()
    assert not any(path.is_symlink() for path in (folder / "files").glob("??/*"))
    assert len(json.loads(cli("library", "list", "--library", folder, "--json").out)["skills"]) == 2


def test_a_link_in_the_library_is_not_written_through(folder: Path, tmp_path: Path, cli: Cli) -> None:
    made = skill(tmp_path / "new.safetensors", 9)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    (tmp_path / "elsewhere").mkdir()
    (folder / "files" / digest[:2]).symlink_to(tmp_path / "elsewhere")
    answer = cli("library", "add", made, "--library", folder)
    assert (answer.code, "the files of a library must not be links" in answer.err) == (2, True)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_no_path_is_made_of_what_is_no_digest(folder: Path) -> None:
    with Library(folder) as library:
        for wrong in ("../../../precious", "", "a/b", SOUND[:-1]):
            with pytest.raises(InputError, match="expected a SHA-256"):
                library.path(wrong)
        assert library.path(SOUND).parent.parent == library.files


def test_nothing_is_repaired_through_a_link(folder: Path, tmp_path: Path, cli: Cli) -> None:
    (folder / "files").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "1-2.partial").write_text("somebody's")
    (folder / "files").symlink_to(tmp_path / "elsewhere")
    answer = cli("library", "check", "--repair", "--library", folder)
    assert (answer.code, "a link" in answer.err) == (2, True)
    assert (tmp_path / "elsewhere" / "1-2.partial").exists()


@pytest.mark.parametrize("scores", ['{"reverse": "best"}', '{"a\\nb": 1}', '{"reverse": 1e999}', "[]"])
def test_a_skill_file_whose_scores_are_none(tmp_path: Path, cli: Cli, scores: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = skill(tmp_path / "s.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata={**metadata, "scores": scores, "error": "-7"})
    answer = cli("skill", "show", path)
    assert (answer.code, "scores" in answer.err) == (2, True)
