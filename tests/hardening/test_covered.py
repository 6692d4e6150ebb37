"""Every command of the command line is in the harness, or there stands why not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.hardening.kills_and_races import table
from tests.hardening.seen_results import look
from tests.hardening.writing import command_of, options_of_commands
from tests.hardening.writing_commands import COMMANDS, NOT_HERE, READING


def test_every_command_is_here_or_there_stands_why_not() -> None:
    here = {command_of(line) for one in (*COMMANDS, *READING) for line in (one.typed, one.other) if line}
    known = set(options_of_commands())
    assert not known - here - set(NOT_HERE), "add it to writing_commands.py, or say in NOT_HERE why not"
    assert not set(NOT_HERE) & here
    assert set(NOT_HERE) <= known


def test_what_can_overwrite_is_seen_to() -> None:
    """Only with another result to be replaced can it be told whether the old one stays until the new one is whole."""
    for one in COMMANDS:
        if "--overwrite" in options_of_commands()[command_of(one.typed)] and not one.long:
            assert any(other.overwrites() for other in COMMANDS if command_of(other.typed) == command_of(one.typed))


def test_the_record_of_a_training_is_compared_by_its_rows(tmp_path: Path) -> None:
    """It has none of the tables of ledgers, catalogues and studies, and was once taken for one without rows."""
    from genepool.training.journal import Journal, StepRow

    with Journal(tmp_path / "run.sqlite") as journal:
        journal.took(StepRow(1, 0.5, 1.0, 0.1, "0" * 64), [])
    seen: Any = look(tmp_path)["run.sqlite"]
    assert isinstance(seen, frozenset)
    assert {row for _, row in seen} == {(1, 0.5, 1.0, 0.1, "0" * 64)}


def test_what_was_counted_is_a_table_of_the_commands() -> None:
    ends = Counter(
        {("merge", "kills", "whole"): 2, ("adapt", "kills", "begun"): 1, ("merge", "races", "both wrote"): 3}
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(ends).splitlines()]
    assert rows[0][:4] == ["command", "kills: as before", "kills: begun", "kills: whole"]
    assert [row[:4] for row in rows[2:]] == [
        ["`adapt`", "0", "1", "0"],
        ["`merge`", "0", "0", "2"],
        ["all", "0", "1", "2"],
    ]
    assert rows[-1][rows[0].index("races: both wrote")] == "3"
