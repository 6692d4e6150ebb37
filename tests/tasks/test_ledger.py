"""The ledger keeps what was committed, whatever happens, and refuses files that are not its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Ledger, Outcome

outcomes = st.builds(
    Outcome,
    st.floats(0, 1),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.dictionaries(st.text("ab", min_size=1, max_size=2), st.floats(-1e6, 1e6), max_size=2),
)
# Writes evaluations of three rows each for as long as it lives, telling of each that is committed.
WRITER = """
import sys
from genepool.tasks import Ledger, Outcome
with Ledger(sys.argv[1]) as ledger:
    for n in range(int(sys.argv[3])):
        rows = [(f"key {n} {i}", str(i), Outcome(1.0, "x" * 2000)) for i in range(3)]
        ledger.record(f"{sys.argv[2]} {n}", "model", "task", "asked", rows)
        print(n, flush=True)
"""


def write(path: Path, who: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), outcomes, max_size=5))
def test_what_is_recorded_is_found_again(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, Outcome]) -> None:
    path = tmp_path_factory.mktemp("ledger") / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.record("f", "model", "task", "asked", [(key, "id", outcome) for key, outcome in rows.items()])
    with Ledger(path) as ledger:
        assert ledger.find("f", "asked", list(rows)) == rows
        assert ledger.find("f", "asked", list(rows)[:1]) == dict(list(rows.items())[:1])
        assert ledger.find("f", "asked otherwise", list(rows)) == {}
        assert ledger.find("g", "asked", list(rows)) == {}


def test_a_row_stays_unless_it_lacked_its_output(tmp_path: Path) -> None:
    def known() -> Outcome:
        return ledger.find("f", "asked", ["k"])["k"]

    with Ledger(tmp_path / "l.sqlite") as ledger:
        for new, kept in [
            (Outcome(0.25), Outcome(0.25)),
            (Outcome(0.75), Outcome(0.25)),
            (Outcome(0.5, "said", {"logprob": -1.0}), Outcome(0.5, "said", {"logprob": -1.0})),
            (Outcome(1.0, "said otherwise"), Outcome(0.5, "said", {"logprob": -1.0})),
            (Outcome(1.0), Outcome(0.5, "said", {"logprob": -1.0})),
        ]:
            ledger.record("f", "model", "task", "asked", [("k", "id", new)])
            assert known() == kept


def test_the_same_question_under_another_tasks_name_is_known_with_its_output(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.record("f", "model", "a", "asked", [("k", "id", Outcome(1.0, "said"))])
        ledger.record("f", "model", "b", "asked", [("k", "id", Outcome(1.0))])
        assert ledger.find("f", "asked", ["k"])["k"].output == "said"


def test_an_evaluation_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> object:
        yield "k", "id", Outcome(1.0)
        raise ZeroDivisionError

    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(ZeroDivisionError):
            ledger.record("f", "model", "task", "asked", rows())
        assert list(ledger.rows()) == []
        ledger.record("f", "model", "task", "asked", [("k", "id", Outcome(1.0))])
        assert len(list(ledger.rows())) == 1


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        detail = {"logprob": float("nan"), "margin": float("-inf"), "token_accuracy": 0.5}
        ledger.record("f", "model", "task", "asked", [("k", "id", Outcome(0.0, "x", detail))])
        assert ledger.find("f", "asked", ["k"])["k"].detail == {"token_accuracy": 0.5}


@pytest.mark.slow
def test_killing_a_writer_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    told = -1
    for life in range(3):
        writer = write(path, f"life {life}", 10**6)
        assert writer.stdout is not None
        for _ in range(4 + life):
            told = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        told += len(writer.communicate()[0].splitlines())
        with Ledger(path) as ledger:
            for n in range(told + 1):
                keys = [f"key {n} {i}" for i in range(3)]
                assert len(ledger.find(f"life {life} {n}", "asked", keys)) == 3
            # One that was committed but not told of yet may be there: whole.
            assert sum(row["fingerprint"].startswith(f"life {life} ") for row in ledger.rows()) in (
                3 * (told + 1),
                3 * (told + 2),
            )


@pytest.mark.slow
def test_processes_that_open_and_write_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    writers = [write(path, f"writer {i}", 15) for i in range(3)]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    with Ledger(path) as ledger:
        assert len(list(ledger.rows())) == 3 * 15 * 3


def test_a_commit_reaches_the_disk_before_it_returns(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_files_that_are_no_ledger_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at as one " * 20)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        # Version 1, as the ledger's own: only the tables tell.
        database.executescript("CREATE TABLE cats (name TEXT); PRAGMA user_version = 1;")
    database.close()
    newer = tmp_path / "newer.sqlite"
    Ledger(newer).close()
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    for path, said in [(text, "not a database"), (other, "something else"), (newer, "newer genepool")]:
        before = path.read_bytes()
        with pytest.raises(InputError, match=said) as caught:
            Ledger(path)
        assert caught.value.where == str(path)
        assert path.read_bytes() == before
    with pytest.raises(InputError):
        Ledger(tmp_path)
    with pytest.raises(InputError):
        Ledger(text / "below" / "a-file.sqlite")


def test_a_damaged_ledger_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        rows = [(f"key {i}", str(i), Outcome(1.0, "x" * 500)) for i in range(200)]
        ledger.record("f", "model", "task", "asked", rows)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(InputError, match="cannot be used") as caught, Ledger(path) as ledger:
        ledger.find("f", "asked", ["key 1"])
    assert caught.value.where == str(path)


def test_the_environment_names_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_LEDGER", str(tmp_path / "elsewhere" / "mine.sqlite"))
    with Ledger() as ledger:
        assert ledger.path == tmp_path / "elsewhere" / "mine.sqlite"
    monkeypatch.delenv("GENEPOOL_LEDGER")
    monkeypatch.chdir(tmp_path)
    with Ledger():
        assert (tmp_path / "genepool.sqlite").is_file()


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.record("f", "m", "t", "asked", [("key", "id", Outcome(1.0, "x"))])
        # SQLite's own way to run out of room at a page that is known.
        ledger._db.execute(f"PRAGMA max_page_count = {ledger._db.execute('PRAGMA page_count').fetchone()[0]}")
        many = [(f"key {i}", str(i), Outcome(0.0, "y" * 500)) for i in range(500)]
        with pytest.raises(InputError, match="no space left on the disk"):
            ledger.record("f", "m", "t", "asked", many)
        assert ledger.find("f", "asked", ["key", "key 0"]) == {"key": Outcome(1.0, "x")}
