"""A study's folder may come from a stranger: what it holds is checked where it is read, and refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import yaml

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.breeding.offspring import Offspring
from genepool.evolution.strategies.base import Birth

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def pristine(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study that bred models."""
    data = {key: value for key, value in evolve_world.STUDY.items() if key not in ("method", "parameters", "search")}
    genome = {"strategy": {"name": "genome", "options": {"population": 4}}, "budget": {"evaluations": 8}}
    (world / "bred.yaml").write_text(yaml.safe_dump({**data, **genome, "tasks": {"dir": "tasks", "valid": 4}}))
    out = tmp_path_factory.mktemp("runs") / "run"
    run_study(world / "bred.yaml", out, ledger=out.parent / "ledger.sqlite")
    return out


@pytest.fixture
def out(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def refused(answer: Any) -> str:
    """The one line of a refusal."""
    assert answer.code == 2, answer
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return str(last)


COLUMNS: list[tuple[str, str, object]] = [
    ("candidates", "generation", "../../precious"),
    ("candidates", "generation", -3),
    ("candidates", "idx", b"\x00"),
    ("candidates", "id", "../precious"),
    ("candidates", "genome", "[]"),
    ("candidates", "genome", "{"),
    ("candidates", "seed", "many"),
    ("results", "fitness", -5),
    ("results", "fitness", "best"),
    ("results", "fitness", 1e300),
    ("results", "valid", '{"pick": -5}'),
    ("results", "valid", "[]"),
    ("results", "scores", "text"),
    ("results", "scores", b"123"),
    ("results", "scores", b"\x00\x00\xa0\xc0" * 48),
    ("results", "scores", b"\x00\x00\xc0\x7f" * 48),
    ("results", "error", b"blob"),
    ("results", "note", b"blob"),
    ("results", "seconds", -1),
    ("results", "seconds", "long"),
    ("results", "unchanged", 7),
]


@pytest.mark.parametrize(("table", "column", "value"), COLUMNS)
def test_a_row_that_is_none_is_never_believed(
    out: Path, world: Path, tmp_path: Path, cli: Cli, table: str, column: str, value: object
) -> None:
    with sqlite3.connect(out / "study.sqlite") as db:
        where = "rowid = (SELECT max(rowid) FROM candidates)" if table == "candidates" else "stage = 0"
        db.execute(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {where}", (value,))
    db.close()
    before = sorted(tmp_path.rglob("*"))
    said = refused(cli("evolve", world / "bred.yaml", "--out", out, "--budget", 12, "--quiet"))
    assert "study.sqlite: " in said
    assert cli("top", out).code in (0, 2)
    assert cli("report", out).code in (0, 2)
    new = {path.name for path in sorted(tmp_path.rglob("*")) if path not in before}
    assert new <= {"study.sqlite-wal", "study.sqlite-shm", "report.html", "ledger.sqlite", "genepool-cache"} | new & {
        path.name for path in (tmp_path / "genepool-cache").rglob("*")
    }


@pytest.mark.parametrize("value", ["{", "7", '"text"', '{"a": NaN}', b"\xff", "[" * 50_000])
@pytest.mark.parametrize("key", ["settings", "format", "seconds", "ended"])
def test_a_setting_of_the_record_that_is_none(out: Path, world: Path, cli: Cli, key: str, value: object) -> None:
    with sqlite3.connect(out / "study.sqlite") as db:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
    db.close()
    answer = cli("evolve", world / "bred.yaml", "--out", out, "--budget", 12, "--quiet")
    if answer.code != 0:
        refused(answer)
    assert (answer.code == 0) == ((key, value) in {("seconds", "7"), ("ended", '"text"')})
    assert cli("top", out).code in (0, 2)
    assert cli("report", out).code in (0, 2)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        lines = [text] if text.startswith("{\n") else text.splitlines()
        data = json.loads(lines[-1])
        change(data)
        return "\n".join([*lines[:-1], json.dumps(data)]) + "\n"

    return apply


FILES: list[tuple[str, Callable[[str], str]]] = [
    ("best.json", lambda text: "[]"),
    ("best.json", lambda text: "[" * 50_000),
    ("best.json", changed(lambda best: best.update(fitness=-5))),
    ("best.json", changed(lambda best: best.update(genome=[1]))),
    ("best.json", changed(lambda best: best.update(strategy=5))),
    ("best.json", changed(lambda best: best.update(ledger=7))),
    ("best.json", changed(lambda best: best.update(notices="one"))),
    ("best.json", changed(lambda best: best["models"][0].update(test={"pick": {"mean": 5}}))),
    ("best.json", changed(lambda best: best["models"][0]["test"]["pick"].update(mean=-5))),
    ("best.json", changed(lambda best: best["cost"].update(seconds="long"))),
    ("best.json", changed(lambda best: best.update(finalists=[{"id": 1}]))),
    ("best.json", changed(lambda best: best.pop("genome"))),
    ("history.jsonl", changed(lambda line: line.update(fitness=-5))),
    ("history.jsonl", changed(lambda line: line.update(fitness="NaN"))),
    ("history.jsonl", changed(lambda line: line.update(generation="0"))),
    ("history.jsonl", changed(lambda line: line.update(genome=None))),
    ("history.jsonl", changed(lambda line: line.update(valid={"pick": 7}))),
    ("history.jsonl", changed(lambda line: line.update(parents=[1]))),
    ("history.jsonl", changed(lambda line: line.pop("id"))),
    ("collection.jsonl", changed(lambda line: line.update(scores={"pick": "high"}))),
    ("collection.jsonl", changed(lambda line: line.update(name=7))),
    ("collection.jsonl", lambda text: text + '{"name": "1.0", "group": "g", "scores": {"pick": NaN}}\n'),
]


@pytest.mark.parametrize(("name", "change"), FILES)
def test_a_file_beside_the_record_is_checked(
    out: Path, world: Path, tmp_path: Path, cli: Cli, name: str, change: Callable[[str], str]
) -> None:
    (out / name).write_text(change((out / name).read_text()))
    assert name in refused(cli("report", out))
    if name == "best.json":
        assert name in refused(cli("collection", out, "--write", "winner", "--out", tmp_path / "model"))
        assert name in refused(cli("evolve", world / "bred.yaml", "--out", tmp_path / "new", "--fork", out))
        assert not (tmp_path / "model").exists()
        assert not (tmp_path / "new").exists()
    if name == "collection.jsonl":
        assert name in refused(cli("collection", out))


@pytest.mark.parametrize(
    "genome",
    [
        {},
        {"op": "copy", "parents": "ab", "seed": 1},
        {"op": "copy", "parents": ["a", 1], "seed": 1},
        {"op": "copy", "parents": ["a"], "seed": "1"},
        {"op": None, "parents": ["a"], "seed": 1},
        {"op": "copy", "parents": ["a\n"], "seed": 1},
    ],
)
def test_what_is_no_birth(genome: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the birth of a model|the names of parents"):
        Birth.from_genome(genome)


def test_no_name_of_a_child_leads_out_of_the_population(tmp_path: Path) -> None:
    offspring = Offspring.__new__(Offspring)
    offspring._folder = tmp_path
    for name in ("../precious", "/etc/passwd", "a/b", ".hidden", "..", "", "a\n"):
        with pytest.raises(InputError, match="no child is called"):
            offspring._path(name)
    assert offspring._path("0.1") == tmp_path / "0.1.safetensors"


def test_no_link_in_the_folder_is_written_through(out: Path, world: Path, tmp_path: Path, cli: Cli) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("winner", "history.jsonl", "collection.jsonl", "report.html", "best.json", "study.yaml"):
        (precious / name).write_text("precious")
        (out / name).unlink() if (out / name).is_file() else shutil.rmtree(out / name, ignore_errors=True)
        (out / name).symlink_to(precious if name == "winner" else precious / name)
    answer = cli("evolve", world / "bred.yaml", "--out", out, "--budget", 12, "--quiet")
    assert answer.code in (0, 2)
    assert sorted(path.name for path in precious.iterdir()) == sorted(
        ["winner", "history.jsonl", "collection.jsonl", "report.html", "best.json", "study.yaml"]
    )
    assert {path.read_text() for path in precious.iterdir()} == {"precious"}


def test_children_are_not_deleted_through_a_link(out: Path, world: Path, tmp_path: Path, cli: Cli) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "9.9.safetensors").write_text("precious")
    shutil.rmtree(out / "population")
    (out / "population").symlink_to(precious)
    said = refused(cli("evolve", world / "bred.yaml", "--out", out, "--budget", 12, "--quiet"))
    assert "a link" in said
    assert (precious / "9.9.safetensors").read_text() == "precious"


def test_what_is_no_file_is_refused(out: Path, world: Path, cli: Cli) -> None:
    (out / "best.json").unlink()
    (out / "best.json").mkdir()
    refused(cli("evolve", world / "bred.yaml", "--out", out, "--budget", 12, "--quiet"))
    (out / "best.json").rmdir()
    os.mkfifo(out / "best.json")
    assert cli("evolve", world / "bred.yaml", "--out", out, "--budget", 12, "--quiet").code == 0
    assert (out / "best.json").is_file()


def test_a_database_of_something_else_stays_as_it_is(world: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "run").mkdir()
    with sqlite3.connect(tmp_path / "run" / "study.sqlite") as db:
        db.execute("CREATE TABLE addresses (name)")
    db.close()
    before = (tmp_path / "run" / "study.sqlite").read_bytes()
    said = refused(cli("evolve", world / "bred.yaml", "--out", tmp_path / "run", "--quiet"))
    assert "is not the record of a study" in said
    assert (tmp_path / "run" / "study.sqlite").read_bytes() == before
