"""Kills, interrupts and races over every command that writes, counted: the table of docs/security.md.

`python -m tests.hardening.kills_and_races --kills 200 --interrupts 100 --races 100 [--only NAME ...] [--beds] [--keep
FOLDER]` goes round the commands, each with the next seed, until there are as many, and kills each at least once. It
tells on stderr what fails and prints the table. With --keep what is done is not done again; --keep FOLDER alone prints
the table of what was done there.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tests.hardening.disturbed import FOUND, Alone, Place, alone, as_typed, interrupt, kill, overwriting
from tests.hardening.forked_commands import Forks
from tests.hardening.hardening_world import GrowingWorld
from tests.hardening.learning_commands import BEDS
from tests.hardening.raced import ENDS, orders, race
from tests.hardening.writing import Writing, command_of
from tests.hardening.writing_commands import COMMANDS

#: No command is disturbed more often than this, however early all of them end.
_ROUNDS = 50
#: A line for everything that was done.
DONE = "done.jsonl"
_ACTS = {"kills": "kill", "interrupts": "interrupt", "races": "race"}
#: One column for each way in which it may end, under what was done.
COLUMNS = {"kills": FOUND, "interrupts": FOUND, "races": ENDS}


class Counted:
    """What was done to each command, and how it ended.

    Args:
        folder: where the world, the place of the commands and `done.jsonl` lie.
        forks: what runs the commands.
    """

    def __init__(self, folder: Path, forks: Forks) -> None:
        self._folder, self._forks, self._done = folder, forks, folder / DONE
        self.ends: Counter[tuple[str, str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.failed = 0
        self.world = GrowingWorld(folder / "world", self._made)
        self._alone = functools.cache(self._known)
        self._before = [json.loads(line) for line in self._done.read_text().splitlines()] if self._done.exists() else []

    def total(self, what: str) -> int:
        """How many kills, interrupts or races there were."""
        return sum(count for (_, one, _), count in self.ends.items() if one == what)

    def go_round(self, what: str, wanted: int, writings: Sequence[Writing]) -> None:
        """Does something to one command after the other until it was done so many times; kills all of them once."""
        known = {(one["what"], one["name"], one["seed"]): one for one in self._before}
        for seed, writing in itertools.product(range(_ROUNDS), writings):
            if self.total(what) >= wanted and (what != "kills" or seed):
                break
            if not (done := known.get((what, writing.name, seed))):
                start = time.monotonic()
                try:
                    ends = getattr(self, _ACTS[what])(writing, seed)
                except Exception as error:
                    self.failed += 1
                    _tell(f"--- {what}: {writing.name}, seed {seed}\n{error}")
                    continue
                seconds = time.monotonic() - start
                done = {"what": what, "name": writing.name, "seed": seed, "ends": ends, "seconds": round(seconds, 1)}
                with self._done.open("a") as file:
                    file.write(json.dumps(done) + "\n")
                _tell(f"{writing.name}: {', '.join(ends)}; {self.total(what) + len(ends)} {what}; {seconds:.0f} s")
            self.ends.update((command_of(writing.typed), what, end) for end in done["ends"])
            self.seconds[what] += done["seconds"]

    def kill(self, writing: Writing, number: int) -> list[str]:
        """Kills a command: every third time when it overwrites, where it can; every ninth time as it is typed."""
        over = number % 3 == 1 and writing.overwrites()
        known, place = self._alone(writing, over), self._place(writing)
        typed = number % 9 == 2 and not writing.long
        dice = random.Random(f"{known.line} {typed} {number}")
        return kill(place, dice, as_typed(place, known) if typed else known, _nothing, typed=typed)

    def interrupt(self, writing: Writing, number: int) -> list[str]:
        """Interrupts a command."""
        known = self._alone(writing, number % 3 == 1 and writing.overwrites())
        return interrupt(self._place(writing), random.Random(f"{known.line} {number}"), known, _nothing)

    def race(self, writing: Writing, number: int) -> list[str]:
        """Lets a command race the other of its entry."""
        place = self._place(writing)
        lines, first = (writing.typed, writing.other or writing.typed), ()
        if number % 3 == 1 and writing.overwrites():
            line, first = overwriting(writing)
            lines = (line, f"{writing.other} --overwrite")
        known = orders(place, lines, first)
        return [race(place, random.Random(f"{lines} {number}"), known)]

    def _known(self, writing: Writing, over: bool) -> Alone:
        return alone(self._place(writing), *(overwriting(writing) if over else (writing.typed, ())))

    def _place(self, writing: Writing) -> Place:
        return Place(self._folder / "place", self.world, self._forks, writing)

    def _made(self, line: str) -> None:
        # What is made later must not add to the ledger that commands are given.
        errors = self._folder / "errors"
        env = {"GENEPOOL_CACHE": str(self._folder / "cache"), "GENEPOOL_LEDGER": "grown.sqlite"}
        code = self._forks.start(shlex.split(line), self._folder / "world", env, errors).wait()
        assert code == 0, f"{line}: {errors.read_text()}"


def table(ends: Counter[tuple[str, str, str]]) -> str:
    """Everything that was counted, in Markdown: a row for each command, a column for each way in which it may end.

    Args:
        ends: how often, by the command, what was done to it, and how that ended.
    """
    columns = [(what, end) for what, ends_of in COLUMNS.items() for end in ends_of]
    commands = sorted({command for command, _, _ in ends})
    counts = [[ends[command, *column] for column in columns] for command in commands]
    rows = [
        ["command", *(f"{what}: {end}" for what, end in columns)],
        ["---", *("--:" for _ in columns)],
        *([f"`{command}`", *map(str, row)] for command, row in zip(commands, counts, strict=True)),
        ["all", *(str(sum(row[at] for row in counts)) for at in range(len(columns)))],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _kept(file: Path) -> Counter[tuple[str, str, str]]:
    """How everything ended that a file says was done."""
    commands = {one.name: command_of(one.typed) for one in (*COMMANDS, *BEDS)}
    done = [json.loads(line) for line in file.read_text().splitlines()]
    return Counter((commands[one["name"]], one["what"], end) for one in done for end in one["ends"])


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _quiet() -> None:
    """Transformers shows bars while it writes the models of the world."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _nothing(_what: str, _number: int) -> None:
    """Kills are counted by how they end."""


def main() -> None:
    """See the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    for what in COLUMNS:
        parser.add_argument(f"--{what}", type=int, default=0, metavar="N", help=f"how many {what} at least")
    parser.add_argument("--only", nargs="*", help="entries of COMMANDS by their names; by default all")
    parser.add_argument("--beds", action="store_true", help="the testbeds that take minutes, too")
    parser.add_argument("--keep", type=Path, help="where the world and what was done are kept")
    asked = parser.parse_args()
    known = (*COMMANDS, *(BEDS if asked.beds else ()))
    # What is long is done last: all of it is killed, and raced where there is still something wanted.
    writings = sorted((one for one in known if asked.only is None or one.name in asked.only), key=lambda one: one.long)
    # Some entries race different commands with the same one.
    single = list({one.typed: one for one in reversed(writings)}.values())[::-1]
    if asked.keep and not any(getattr(asked, what) for what in COLUMNS):
        print(table(_kept(asked.keep / DONE)))
        return
    _quiet()
    with Forks() as forks, nullcontext(asked.keep) if asked.keep else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        counted = Counted(Path(folder).resolve(), forks)
        for what, of in (("kills", single), ("interrupts", single), ("races", writings)):
            if wanted := getattr(asked, what):
                counted.go_round(what, wanted, of)
    print(table(counted.ends))
    for what in COLUMNS:
        if total := counted.total(what):
            print(f"{total} {what}, {counted.seconds[what] / total:.1f} s each")
    print(f"{counted.failed} failed")
    sys.exit(bool(counted.failed))


if __name__ == "__main__":
    main()
