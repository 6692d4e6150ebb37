"""Commands run in a place of their own: alone, and killed on the way, the one held against the other.

`Place` is where a command works, `alone` says what it does there, `kill` and `interrupt` disturb it. `raced` has two at
once.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.hardening.forked_commands import CALM, PATIENCE, Forked, Forks
from tests.hardening.hardening_world import GrowingWorld
from tests.hardening.seen_results import Seen, different, look, passing, torn
from tests.hardening.writing import Writing

# How much more than `make harden` does by itself.
FACTOR = int(os.environ.get("GENEPOOL_HARDEN", "1"))


class Typed:
    """A command as it is typed, from `python -m genepool` on."""

    def __init__(self, arguments: Sequence[str], folder: Path, env: dict[str, str], errors: Path) -> None:
        with open(errors, "wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "genepool", *arguments],
                cwd=folder,
                env={**os.environ, **CALM, **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Sends a signal to all of its process group."""
        os.killpg(self._process.pid, number)

    def wait(self) -> int:
        """The exit code, negative for the signal that ended it."""
        return self._process.wait(PATIENCE)


class Place:
    """Where one command works: `work`, its folder, and a cache and what it says beside that.

    All its runs have the same place, so that results that name their own path are alike.
    """

    def __init__(self, folder: Path, world: GrowingWorld, forks: Forks, writing: Writing) -> None:
        self.folder, self.work, self.world, self.forks, self.writing = folder, folder / "work", world, forks, writing

    def prepare(self, first: Sequence[str] = ()) -> None:
        """As it is before the command: what it needs is there, and what the lines in `first` make."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.work.mkdir(parents=True)
        for name in self.writing.needs:
            source = self.world.folder / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.work / name)
        for line in first:
            self.run(line)

    def start(
        self, line: str, errors: str = "errors", signals: Mapping[int, int] | None = None, out: str = os.devnull
    ) -> Forked:
        """Starts a command line in a fork; `signals` and `out` as in `Forks.start`."""
        return self.forks.start(self._split(line), self.work, self._env(), self.folder / errors, signals, out=out)

    def type(self, line: str) -> Typed:
        """Starts a command line as it is typed."""
        return Typed(self._split(line), self.work, self._env(), self.folder / "errors")

    def run(self, line: str) -> int:
        """Runs a command line to its end."""
        return self.start(line).wait()

    def look(self) -> Seen:
        """What can be seen of the command's work."""
        return look(self.work)

    def left(self) -> list[str]:
        """The partial files and locks that nothing may leave."""
        stays = [f"work/{pattern}" for pattern in self.writing.stays]
        return [f"{name}: left behind" for name in passing(self.folder, stays)]

    def said(self, errors: str = "errors") -> str:
        """The stderr of a command."""
        path = self.folder / errors
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def speakers(self) -> list[str]:
        """The commands that said something."""
        return [name for name in ("errors", "first", "second") if self.said(name)]

    def steps(self) -> int:
        """How many steps the last command took."""
        return int((self.folder / "errors.steps").read_text())

    def _split(self, line: str) -> list[str]:
        self.world.grow(line)
        return shlex.split(line.format(world=self.world.folder))

    def _env(self) -> dict[str, str]:
        return {"GENEPOOL_CACHE": str(self.folder / "cache"), "GENEPOOL_LEDGER": "genepool.sqlite"}


@dataclass(frozen=True)
class Alone:
    """What a command does when nothing disturbs it.

    Attributes:
        first: command lines that are run before.
        line: the command line.
        before, after: what can be seen then.
        code: its exit code.
        again: its exit code when it is run once more, which changes nothing.
        seconds: how long it takes.
        steps: how many steps it takes.
    """

    first: tuple[str, ...]
    line: str
    before: Seen
    after: Seen
    code: int
    again: int
    seconds: float
    steps: int


def alone(place: Place, line: str, first: Sequence[str] = ()) -> Alone:
    """Runs a command twice with nothing to disturb it."""
    place.prepare(first)
    before, start = place.look(), time.monotonic()
    code = place.run(line)
    seconds, steps = time.monotonic() - start, place.steps()
    assert code == 0, f"{line}: exit code {code}: {place.said()}"
    after = place.look()
    again = place.run(line)
    problems = [*different(place.look(), after), *place.left()]
    assert not problems, f"{line}: run again it changes what it wrote, or leaves something:\n" + "\n".join(problems)
    return Alone(tuple(first), line, before, after, code, again, seconds, steps)


def kill(
    place: Place, dice: random.Random, known: Alone, count: Callable[[str, int], None], *, typed: bool = False
) -> list[str]:
    """Kills a command up to three times, each time when it has gone on, then lets it finish.

    Args:
        place: where.
        dice: says when.
        known: what it does alone.
        count: is told of every kill that met it alive.
        typed: kill it as it is typed, once, and not forks of it.

    Returns:
        What was there after each kill: one of `FOUND`.

    Raises:
        AssertionError: something was lost, or the end is another than without kills.
    """
    told, found = [known.line], list[str]()
    place.prepare(known.first)
    wanted = 1 if typed else dice.choice((1, 1, 2, 3))
    tries = 0
    while len(found) < wanted and tries < 8:
        tries += 1
        if _killed(place, dice, known, typed, told):
            count("kills", 1)
            found.append(_found(place, known, told))
        elif found:
            break
        else:
            # It was too late, and there is nothing left to kill.
            told = [known.line]
            place.prepare(known.first)
    _finish(place, known, told)
    return found


def _killed(place: Place, dice: random.Random, known: Alone, typed: bool, told: list[str]) -> bool:
    """Starts a command and kills it, at a moment or before a step; false when it has ended before."""
    running: Forked | Typed
    if typed or dice.random() < 0.4:
        moment = known.seconds * (dice.uniform(0, 1) if dice.random() < 0.5 else dice.uniform(0.6, 1))
        told.append(f"killed after {moment:.3f} of {known.seconds:.3f} s")
        running = place.type(known.line) if typed else place.start(known.line)
        time.sleep(moment)
        running.signal(signal.SIGKILL)
    else:
        step = drawn_step(dice, known.steps)
        told.append(f"killed before step {step} of {known.steps}")
        running = place.start(known.line, signals={step: signal.SIGKILL})
    alive = running.wait() == -signal.SIGKILL
    told[-1] += "" if alive else ", which was too late"
    return alive


def interrupt(place: Place, dice: random.Random, known: Alone, count: Callable[[str, int], None]) -> list[str]:
    """Interrupts a command before a step, as Ctrl-C or SIGTERM does, in a third of the runs twice; then lets it finish.

    Args:
        place: where.
        dice: says when, by which of the two, and whether twice.
        known: what it does alone.
        count: is told of every interrupt that ended it.

    Returns:
        What was there afterwards, one of `FOUND`; empty where the interrupt came too late.

    Raises:
        AssertionError: it did not end with 130 and one line, left something, or lost something.
    """
    place.prepare(known.first)
    number, step = dice.choice((signal.SIGINT, signal.SIGTERM)), drawn_step(dice, known.steps)
    again = step + dice.randint(1, 3) if dice.random() < 1 / 3 else 0
    told = [
        known.line,
        f"{number.name} before step {step} of {known.steps}" + (f", again before {again}" * bool(again)),
    ]
    signals = {step: number} | ({again: dice.choice((signal.SIGINT, signal.SIGTERM))} if again else {})
    code = place.start(known.line, signals=signals).wait()
    told.append(f"exit code {code}")
    found = []
    if code == known.code:
        # It had nothing left to do.
        check(told, different(place.look(), known.after), place)
    else:
        count("interrupts", 1)
        check(told, _told_wrongly(place, code), place)
        found.append(_found(place, known, told))
    _finish(place, known, told)
    return found


def _told_wrongly(place: Place, code: int) -> list[str]:
    """What is wrong with how an interrupted command ended."""
    said = place.said().splitlines()
    last = said[-1] if said else ""
    wrong = [] if code == 130 else ["expected the exit code 130"]
    if [line for line in said if line.startswith("error: ")] != [last] or not last.startswith("error: interrupted"):
        wrong.append("expected one line of error that says so")
    if "Traceback" in place.said():
        wrong.append("a traceback")
    # Who does not wait for the end leaves partial files, which the next run takes up.
    return wrong if last.startswith("error: interrupted twice.") else [*wrong, *place.left()]


#: What is there after a kill: what was there before; a run that will go on, or finished evaluations; the whole result.
FOUND = ("as before", "begun", "whole")


def _found(place: Place, known: Alone, told: list[str]) -> str:
    """What a command left that was ended; AssertionError where something was lost or is torn."""
    # With --overwrite some commands begin by removing what was there.
    legal = [known.before, known.after, *([{}] if place.writing.anew and known.first else [])]
    now = place.look()
    check(told, torn(now, legal, place.writing.parts), place)
    if not different(now, known.after, place.writing.stays):
        return "whole"
    return "begun" if different(now, known.before, place.writing.stays) else "as before"


def _finish(place: Place, known: Alone, told: list[str]) -> None:
    """Runs a command that was ended once more, to its end, which must be the one that it has alone."""
    writing = place.writing
    published = not different(place.look(), known.after, writing.stays)
    code = place.run(known.line)
    told.append(f"run again, exit code {code}")
    wrong = code != known.code and not (published and code == known.again)
    problems = [f"expected the exit code {known.code}: {place.said()}"] if wrong else []
    if writing.mended:
        place.run(writing.mended)
    check(told, [*problems, *different(place.look(), known.after, writing.stays), *place.left()], place)


def drawn_step(dice: random.Random, steps: int) -> int:
    """One of the steps of a command, as often as not one of the last, where things are published."""
    return dice.randint(1 if dice.random() < 0.5 else max(1, steps - 20), steps)


def as_typed(place: Place, known: Alone) -> Alone:
    """The same command as it is typed, which takes longer and leaves the same."""
    place.prepare(known.first)
    start = time.monotonic()
    assert place.type(known.line).wait() == known.code, place.said()
    seconds = time.monotonic() - start
    assert not different(place.look(), known.after)
    return replace(known, seconds=seconds)


def overwriting(writing: Writing) -> tuple[str, tuple[str, ...]]:
    """The command when it overwrites what the other one wrote: its line, and the lines before it."""
    return f"{writing.typed} --overwrite", (writing.other,)


def check(told: Sequence[str], problems: Sequence[str], place: Place) -> None:
    """Raises AssertionError with what was done, what is wrong and what the commands said, if anything is wrong."""
    said = [f"{name} said: {place.said(name)[-300:].strip()}" for name in place.speakers()]
    assert not problems, "\n  ".join([*told, "found:", *problems[:8], *said])
