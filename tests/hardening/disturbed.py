"""Commands run in a place of their own: alone, and killed on the way, the one held against the other.

`Place` is where a command works, `alone` says what it does there, `kill` disturbs it. `raced` has two at once.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from forked_commands import CALM, PATIENCE, Forked, Forks
from seen_results import Seen, different, look, passing, torn
from writing_commands import Writing

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

    def __init__(self, folder: Path, world: Path, forks: Forks, writing: Writing) -> None:
        self.folder, self.work, self.world, self.forks, self.writing = folder, folder / "work", world, forks, writing

    def prepare(self, first: Sequence[str] = ()) -> None:
        """As it is before the command: what it needs is there, and what the lines in `first` make."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.work.mkdir(parents=True)
        for name in self.writing.needs:
            source = self.world / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.work / name)
        for line in first:
            self.run(line)

    def start(self, line: str, errors: str = "errors", at: int = 0, send: int = 0) -> Forked:
        """Starts a command line in a fork; `at` and `send` as in `Forks.start`."""
        return self.forks.start(self._split(line), self.work, self._env(), self.folder / errors, at, send)

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
        return shlex.split(line.format(world=self.world))

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
) -> None:
    """Kills a command up to three times, each time when it has gone on, then lets it finish.

    Args:
        place: where.
        dice: says when.
        known: what it does alone.
        count: is told of every kill that met it alive.
        typed: kill it as it is typed, once, and not forks of it.

    Raises:
        AssertionError: something was lost, or the end is another than without kills.
    """
    writing, told = place.writing, [known.line]
    # With --overwrite some commands begin by removing what was there.
    legal = [known.before, known.after, *([{}] if writing.anew and known.first else [])]
    place.prepare(known.first)
    wanted = 1 if typed else dice.choice((1, 1, 2, 3))
    done = tries = 0
    while done < wanted and tries < 8:
        tries += 1
        if _killed(place, dice, known, typed, told):
            done += 1
            count("kills", 1)
            check(told, torn(place.look(), legal, writing.parts), place)
        elif done:
            break
        else:
            # It was too late, and there is nothing left to kill.
            told = [known.line]
            place.prepare(known.first)
    published = not different(place.look(), known.after, writing.stays)
    code = place.run(known.line)
    told.append(f"run again, exit code {code}")
    wrong = code != known.code and not (published and code == known.again)
    problems = [f"expected the exit code {known.code}: {place.said()}"] if wrong else []
    if writing.mended:
        place.run(writing.mended)
    check(told, [*problems, *different(place.look(), known.after, writing.stays), *place.left()], place)


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
        running = place.start(known.line, at=step, send=signal.SIGKILL)
    alive = running.wait() == -signal.SIGKILL
    told[-1] += "" if alive else ", which was too late"
    return alive


def drawn_step(dice: random.Random, steps: int) -> int:
    """One of the steps of a command, as often as not one of the last, where things are published."""
    return dice.randint(1 if dice.random() < 0.5 else max(1, steps - 20), steps)


def overwriting(writing: Writing) -> tuple[str, tuple[str, ...]]:
    """The command when it overwrites what the other one wrote: its line, and the lines before it."""
    return f"{writing.typed} --overwrite", (writing.other,)


def check(told: Sequence[str], problems: Sequence[str], place: Place) -> None:
    """Raises AssertionError with what was done, what is wrong and what the commands said, if anything is wrong."""
    said = [f"{name} said: {place.said(name)[-300:].strip()}" for name in place.speakers()]
    assert not problems, "\n  ".join([*told, "found:", *problems[:8], *said])
