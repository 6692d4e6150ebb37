"""Two processes write to one place at once: it ends as if one had waited for the other, or been sent away."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.hardening.disturbed import FACTOR, Place, overwriting
from tests.hardening.raced import Orders, orders, race
from tests.hardening.writing import Writing
from tests.hardening.writing_commands import COMMANDS

Count = Callable[[str, int], None]
OVERWRITING = [one for one in COMMANDS if one.overwrites() and not one.long]


@pytest.mark.slow
@pytest.mark.parametrize("writing", [one for one in COMMANDS if not one.long][::2], ids=str)
def test_a_race_has_a_winner(writing: Writing, place: Place, count: Count) -> None:
    _race(place, orders(place, (writing.typed, writing.other or writing.typed)), count, 1)


@pytest.mark.harden
@pytest.mark.parametrize("writing", COMMANDS, ids=str)
def test_many_races_have_winners(writing: Writing, place: Place, count: Count) -> None:
    known = orders(place, (writing.typed, writing.other or writing.typed))
    _race(place, known, count, 1 if writing.long else 2 * FACTOR)


@pytest.mark.harden
@pytest.mark.parametrize("writing", OVERWRITING, ids=str)
def test_races_to_overwrite_have_winners(writing: Writing, place: Place, count: Count) -> None:
    line, first = overwriting(writing)
    _race(place, orders(place, (line, f"{writing.other} --overwrite"), first), count, FACTOR)


def _race(place: Place, known: Orders, count: Count, times: int) -> None:
    for number in range(times):
        count("races", 1)
        race(place, random.Random(f"{known.lines} {number}"), known)
