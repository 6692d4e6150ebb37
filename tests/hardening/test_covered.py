"""Every command of the command line is in the harness, or there stands why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seen_results import look
from writing_commands import COMMANDS, NOT_HERE, command_of, options_of_commands


def test_every_command_is_here_or_there_stands_why_not() -> None:
    here = {command_of(line) for one in COMMANDS for line in (one.typed, one.other) if line}
    known = set(options_of_commands())
    assert not known - here - set(NOT_HERE), "add it to COMMANDS in writing_commands.py, or say in NOT_HERE why not"
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
