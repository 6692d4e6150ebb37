"""A ledger may come from a stranger: a damaged outcome is told, never counted, and replaced by asking again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.tasks import Ledger, Outcome

Cli = Callable[..., Any]
DAMAGE: list[tuple[str, object]] = [
    ("score", -5),
    ("score", 7.5),
    ("score", "right"),
    ("score", b"\x01"),
    ("output", b"\xff"),
    ("detail", "{"),
    ("detail", "[1]"),
    ("detail", '{"logprob": "low"}'),
    ("detail", '{"logprob": NaN}'),
    ("detail", b"{}"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for model in "ab":
            rows = [(f"key {i}", f"example {i}", Outcome(float(i % 2), str(i), {"logprob": -1.0})) for i in range(8)]
            ledger.record(model * 64, model, "t", "asked", rows)
    return path


def spoil(path: Path, column: str, value: object) -> None:
    """Damages the third outcome of model b."""
    with sqlite3.connect(path) as db:
        model, example = "SELECT id FROM models WHERE name = 'b'", "SELECT id FROM examples WHERE key = 'key 2'"
        db.execute(f"UPDATE outcomes SET {column} = ? WHERE model = ({model}) AND example = ({example})", (value,))
    db.close()


@pytest.mark.parametrize(("column", "value"), DAMAGE)
def test_a_damaged_outcome_is_never_believed(
    path: Path, tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str], column: str, value: object
) -> None:
    spoil(path, column, value)
    keys = [f"key {i}" for i in range(8)]
    with Ledger(path) as ledger:
        assert set(ledger.find("b" * 64, "asked", keys)) == set(keys) - {"key 2"}
        assert len(ledger.find("a" * 64, "asked", keys)) == 8
    assert "1 damaged outcomes are not used (example key 2" in capsys.readouterr().err

    answer = cli("outcomes", "export", "--ledger", path, tmp_path / "rows.jsonl")
    assert answer.code == 0
    assert "1 damaged outcomes are left out" in answer.err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 15
    assert all(0 <= row["score"] <= 1 for row in rows)

    compared = cli("compare", "a", "b", "--ledger", path, "--json")
    assert compared.code == 0, compared.err
    (task,) = json.loads(compared.out)["comparisons"][0]["tasks"]
    # A score that is none leaves the pair out; what belongs to it does not.
    assert task["n"] == (7 if column == "score" else 8)
    assert 0 <= task["new"]["mean"] <= 1

    # Asked again, it is whole again; what was whole stays.
    with Ledger(path) as ledger:
        ledger.record("b" * 64, "b", "t", "asked", [(key, key, Outcome(1.0, "new")) for key in keys])
        found = ledger.find("b" * 64, "asked", keys)
    assert found["key 2"] == Outcome(1.0, "new")
    assert [found[f"key {i}"].output for i in (0, 1, 3, 4, 5, 6, 7)] == list("0134567")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("models", "fingerprint"),
        ("models", "name"),
        ("tasks", "name"),
        ("tasks", "asking"),
        ("examples", "key"),
        ("examples", "name"),
    ],
)
def test_names_that_are_no_text(path: Path, tmp_path: Path, cli: Cli, table: str, column: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE {table} SET {column} = ? WHERE id = (SELECT max(id) FROM {table})", (b"\xff\x00",))
    db.close()
    answer = cli("outcomes", "export", "--ledger", path, tmp_path / "rows.jsonl")
    assert answer.code == 0
    assert "left out" in answer.err
    assert cli("compare", "a", "b", "--ledger", path).code in (0, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"score": True},
        {"score": -5},
        {"score": 10**400},
        {"score": "1"},
        {"detail": {"logprob": 10**400}},
        {"detail": {"logprob": True}},
        {"output": 5},
        {"fingerprint": None},
        {"fingerprint": ""},
        {"fingerprint": "a\nb\x1b[31m"},
        {"fingerprint": "a" * 10**6},
        {"example": ""},
        {"example": ["a"]},
    ],
)
def test_a_line_that_is_no_outcome_imports_nothing(
    path: Path, tmp_path: Path, cli: Cli, change: dict[str, Any]
) -> None:
    assert cli("outcomes", "export", "--ledger", path, tmp_path / "rows.jsonl").code == 0
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), **change})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    answer = cli("outcomes", "import", "--ledger", tmp_path / "new.sqlite", tmp_path / "rows.jsonl")
    assert answer.code == 2
    assert f"{tmp_path / 'rows.jsonl'}:4" in answer.err
    with Ledger(tmp_path / "new.sqlite") as ledger:
        assert not list(ledger.rows())


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            ("CREATE TABLE z (x)", f"CREATE TRIGGER t BEFORE INSERT ON outcomes BEGIN INSERT INTO z {ENDLESS}; END"),
            "it holds a trigger",
        ),
        (
            ("DROP TABLE models", f"CREATE VIEW models AS SELECT x id, 'a' fingerprint, 'b' name FROM ({ENDLESS})"),
            "it holds a view",
        ),
        (("DROP TABLE examples", "CREATE VIRTUAL TABLE examples USING fts5 (id, key, name)"), "'examples' is virtual"),
    ],
)
def test_a_schema_that_acts_is_refused(
    path: Path, tmp_path: Path, cli: Cli, statements: tuple[str, ...], said: str
) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    for command in (("outcomes", "export", tmp_path / "rows.jsonl"), ("compare", "a", "b")):
        answer = cli(*command, "--ledger", path)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert said in answer.err


def test_text_that_is_no_text_is_damage(path: Path, tmp_path: Path, cli: Cli) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE outcomes SET output = CAST(x'ff41' AS TEXT) WHERE example = 1")
        db.execute("UPDATE models SET name = CAST(x'fe' AS TEXT) WHERE name = 'b'")
    db.close()
    answer = cli("outcomes", "export", tmp_path / "rows.jsonl", "--ledger", path)
    assert answer.code == 0, answer.err
    assert "9 damaged outcomes are left out" in answer.err
    assert cli("compare", "a", "b", "--ledger", path).code == 2


def test_a_row_that_the_tables_refuse_is_one_error(path: Path, tmp_path: Path, cli: Cli) -> None:
    rows = tmp_path / "rows.jsonl"
    assert cli("outcomes", "export", rows, "--ledger", path).code == 0
    strict = tmp_path / "strict.sqlite"
    with Ledger(strict):
        pass
    with sqlite3.connect(strict) as db:
        db.execute("DROP TABLE outcomes")
        db.execute(
            "CREATE TABLE outcomes (model, task, example, score CHECK (score > 5), output, detail, "
            "PRIMARY KEY (model, task, example))"
        )
    db.close()
    answer = cli("outcomes", "import", rows, "--ledger", strict)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
