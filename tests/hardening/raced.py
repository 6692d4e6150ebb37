"""Two commands that write to one place at once, held against both orders of one after the other."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.hardening.disturbed import Place, check, drawn_step
from tests.hardening.forked_commands import Forked
from tests.hardening.seen_results import Seen, different, torn

# How many seconds the second of two may take while the first is held; it may be waiting for the first.
_AWHILE = 1.0
#: How a race ends: both wrote, one after the other; one was told that the other is at work; one was ended on the way.
ENDS = ("both wrote", "one sent away", "one ended")


@dataclass(frozen=True)
class Order:
    """How two commands end, one after the other: their exit codes, None for one that is not run, and what is seen."""

    codes: tuple[int | None, int | None]
    after: Seen


@dataclass(frozen=True)
class Orders:
    """All that two commands may do to each other.

    Attributes:
        first: command lines that are run before.
        lines: the two command lines.
        before: what can be seen before.
        alone: each without the other.
        both: the first before the second, and the second before the first.
        seconds, steps: of the first alone.
    """

    first: tuple[str, ...]
    lines: tuple[str, str]
    before: Seen
    alone: tuple[Order, Order]
    both: tuple[Order, Order]
    seconds: float
    steps: int

    @property
    def all(self) -> list[Seen]:
        """Whatever can be seen after one of them or both."""
        return [order.after for order in (*self.alone, *self.both)]

    def legal(self, codes: tuple[int, int], either: bool) -> list[Seen]:
        """What may be seen after two commands that nobody disturbed ended with these codes."""
        one, other = (order.after for order in self.alone)
        # One may be told that the other is at work; of two that write a small file, both may end well.
        found = {(0, 2): [one], (2, 0): [other], (2, 2): [self.before], (0, 0): [one, other] if either else []}
        return [order.after for order in self.both if order.codes == codes] + found.get(codes, [])

    def legal_beside(self, number: int, code: int) -> list[Seen]:
        """What may be seen after the command of this number ended with this code and the other was killed."""
        found = [order.after for order in (self.alone[number], *self.both) if order.codes[number] == code]
        return found + ([self.before, self.alone[1 - number].after] if code == 2 else [])


def orders(place: Place, lines: tuple[str, str], first: Sequence[str] = ()) -> Orders:
    """Runs two commands one after the other, in both orders."""
    place.prepare(first)
    before, start = place.look(), time.monotonic()
    codes = [place.run(lines[0])]
    seconds, steps = time.monotonic() - start, place.steps()
    one = Order((codes[0], None), place.look())
    both = Order((codes[0], place.run(lines[1])), place.look())
    place.prepare(first)
    codes.append(place.run(lines[1]))
    other = Order((None, codes[1]), place.look())
    turned = Order((place.run(lines[0]), codes[1]), place.look())
    assert codes == [0, 0], f"{lines}: exit codes {codes}: {place.said()}"
    return Orders(tuple(first), lines, before, (one, other), (both, turned), seconds, steps)


def race(place: Place, dice: random.Random, known: Orders) -> str:
    """Lets two commands write to one place at once, in half of the races with one of them killed or interrupted.

    Returns:
        How it ended: one of `ENDS`.

    Raises:
        AssertionError: they end as they never would one after the other, or leave something behind.
    """
    place.prepare(known.first)
    told = list(known.lines)
    victim = dice.choice((None, None, 0, 1))
    number = dice.choice((signal.SIGKILL, signal.SIGINT))
    start = _held if dice.random() < 0.5 else _together
    codes = start(place, dice, known, victim, number, told)
    told.append(f"exit codes {codes[0]} and {codes[1]}")
    if victim is None or codes[victim] not in (-signal.SIGKILL, -signal.SIGINT, 130):
        check(told, _wrong(place, known, codes), place)
        return ENDS[0] if codes == (0, 0) else ENDS[1]
    _check_victim(place, known, codes, victim, told)
    return ENDS[2]


def _together(
    place: Place, dice: random.Random, known: Orders, victim: int | None, number: int, told: list[str]
) -> tuple[int, int]:
    """The second starts with the first or while it runs; what happens to one of them happens at a drawn moment."""
    offset, moment = dice.choice((0.0, dice.uniform(0, known.seconds))), dice.uniform(0, known.seconds)
    told.append(f"the second {offset:.3f} s after the first")
    first = place.start(known.lines[0], "first")
    time.sleep(offset)
    second = place.start(known.lines[1], "second")
    if victim is not None:
        told.append(f"{moment:.3f} s later")
        time.sleep(moment)
        _send(number, (first, second), victim, told)
    return first.wait(), second.wait()


def _held(
    place: Place, dice: random.Random, known: Orders, victim: int | None, number: int, told: list[str]
) -> tuple[int, int]:
    """The first is held before one of its steps while the second runs, whatever the machine has to do besides."""
    step = drawn_step(dice, known.steps)
    told.append(f"the first is held before its step {step} of {known.steps} while the second runs")
    first = place.start(known.lines[0], "first", {step: signal.SIGSTOP})
    first.stopped()
    second = place.start(known.lines[1], "second")
    second.ended(_AWHILE)
    if victim is not None:
        _send(number, (first, second), victim, told)
    first.signal(signal.SIGCONT)
    return first.wait(), second.wait()


def _send(number: int, commands: tuple[Forked, Forked], victim: int, told: list[str]) -> None:
    told.append(f"{signal.Signals(number).name} for the {('first', 'second')[victim]}")
    commands[victim].signal(number)


def _wrong(place: Place, known: Orders, codes: tuple[int, int]) -> list[str]:
    """What is wrong with how two ended that nobody disturbed."""
    now, legal = place.look(), known.legal(codes, place.writing.either)
    problems = [different(now, one, more=known.all) for one in legal]
    found = min(problems, key=len) if problems else ["no order of the two ends with these codes"]
    for code, name in zip(codes, ("first", "second"), strict=True):
        lines = place.said(name).splitlines()
        if code and [line for line in lines if line.startswith("error: ")] != lines[-1:]:
            found.append(f"the {name} does not end with one line that begins with error")
    return found + place.left()


def _check_victim(place: Place, known: Orders, codes: tuple[int, int], victim: int, told: list[str]) -> None:
    """Checks what is there after one of two was killed or interrupted, and after both were run once more."""
    writing, survivor = place.writing, 1 - victim
    # With --overwrite some commands begin by removing what was there.
    legal = known.legal_beside(survivor, codes[survivor]) + ([{}] if writing.anew and known.first else [])
    check(told, torn(place.look(), legal, writing.parts, known.all), place)
    if codes[victim] != -signal.SIGKILL:
        check(told, place.left(), place)
    again = [place.run(line) for line in known.lines]
    told.append(f"run again, exit codes {again[0]} and {again[1]}")
    if writing.mended:
        place.run(writing.mended)
    now = place.look()
    problems = [different(now, order.after, writing.stays, known.all) for order in known.both]
    check(told, [*min(problems, key=len), *place.left()], place)
