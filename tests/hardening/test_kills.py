"""kill -9 at random moments over every command that writes: nothing is lost, and the end is the one without kills."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.hardening.disturbed import FACTOR, Alone, Place, alone, as_typed, interrupt, kill, overwriting
from tests.hardening.writing import Writing
from tests.hardening.writing_commands import COMMANDS

Count = Callable[[str, int], None]
# Some entries race different commands with the same one.
KILLED = list({one.typed: one for one in reversed(COMMANDS)}.values())[::-1]
OVERWRITING = [one for one in COMMANDS if one.overwrites() and not one.long]
SAMPLE = [one for one in KILLED if not one.long]


@pytest.mark.slow
@pytest.mark.parametrize("writing", SAMPLE, ids=str)
def test_a_kill_changes_nothing(writing: Writing, place: Place, count: Count) -> None:
    _kill(place, alone(place, writing.typed), count, 1)


@pytest.mark.slow
@pytest.mark.parametrize("writing", [one for one in SAMPLE if one.name in ("merge", "library add")], ids=str)
def test_a_kill_of_the_typed_command_changes_nothing(writing: Writing, place: Place, count: Count) -> None:
    _kill(place, as_typed(place, alone(place, writing.typed)), count, 1, typed=True)


@pytest.mark.harden
@pytest.mark.parametrize("writing", KILLED, ids=str)
def test_many_kills_change_nothing(writing: Writing, place: Place, count: Count) -> None:
    _kill(place, alone(place, writing.typed), count, 1 if writing.long else 3 * FACTOR)


@pytest.mark.harden
@pytest.mark.parametrize("writing", OVERWRITING, ids=str)
def test_what_was_there_stays_until_it_is_replaced(writing: Writing, place: Place, count: Count) -> None:
    _kill(place, alone(place, *overwriting(writing)), count, 2 * FACTOR)


@pytest.mark.harden
@pytest.mark.parametrize("writing", SAMPLE, ids=str)
def test_kills_of_the_typed_command_change_nothing(writing: Writing, place: Place, count: Count) -> None:
    _kill(place, as_typed(place, alone(place, writing.typed)), count, FACTOR, typed=True)


@pytest.mark.slow
@pytest.mark.parametrize("writing", SAMPLE[::2], ids=str)
def test_an_interrupt_ends_a_command_in_one_line(writing: Writing, place: Place, count: Count) -> None:
    interrupt(place, random.Random(f"{writing.typed} 0"), alone(place, writing.typed), count)


@pytest.mark.harden
@pytest.mark.parametrize("writing", KILLED, ids=str)
def test_many_interrupts_end_commands_in_one_line(writing: Writing, place: Place, count: Count) -> None:
    known = alone(place, writing.typed)
    for number in range(1 if writing.long else 2 * FACTOR):
        interrupt(place, random.Random(f"{known.line} {number}"), known, count)


def _kill(place: Place, known: Alone, count: Count, times: int, *, typed: bool = False) -> None:
    for number in range(times):
        kill(place, random.Random(f"{known.line} {typed} {number}"), known, count, typed=typed)
