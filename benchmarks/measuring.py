"""Whole processes timed in turn, A B A B, so that a machine whose speed drifts drifts for all of them.

Uses nothing but the standard library, so that the process that measures stays small and idle. Every benchmark that
times commands uses it.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A command this long gains nothing from a run that only warms up: its first run counts.
LONG_SECONDS = 60.0
_SAMPLING_SECONDS = 0.01


@dataclass(frozen=True)
class Figures:
    """What one process used: wall and processor seconds, peak resident and peak anonymous memory in GB (10^9).

    Resident memory counts the pages of mapped files, which the system can drop; anonymous memory is what the process
    itself asked for. Both are those of the process with all its threads.
    """

    wall: float
    cpu: float
    resident: float
    anonymous: float


class CommandFailed(RuntimeError):
    """A measured command ended with an error; the message is the last line it wrote to stderr."""


def median(runs: Sequence[Figures]) -> Figures:
    """The median of every figure, each for itself."""
    return Figures(*(statistics.median(values) for values in zip(*map(astuple, runs), strict=True)))


def paired_ratio(runs: Sequence[Figures], floor: Sequence[Figures], beyond: Sequence[Figures] | None = None) -> float:
    """The median, over the rounds, of a run's wall seconds divided by those of the floor in the same round.

    Args:
        runs: the runs of a command.
        floor: those of what it is compared with, made in turn with them.
        beyond: those of what is subtracted from the command first (its start-up).
    """
    start_up = [run.wall for run in beyond] if beyond is not None else [0.0] * len(runs)
    return statistics.median(
        (run.wall - start) / under.wall for run, start, under in zip(runs, start_up, floor, strict=True)
    )


def time_in_turn(
    commands: Mapping[str, Sequence[str]],
    rounds: int = 3,
    *,
    between: Callable[[], None] | None = None,
    failures: dict[str, str] | None = None,
    long: float = LONG_SECONDS,
) -> dict[str, list[Figures]]:
    """Runs every command once to warm up and `rounds` times in turn.

    When one of them takes longer than `long` seconds, the first turn counts and one turn less is made.

    Args:
        commands: name -> arguments; they run in the repository's root.
        rounds: runs of each that count.
        between: called before every run and after the last, outside what is measured (removes outputs).
        failures: takes the commands that failed, name -> reason, and they are left out of the rest; without it a
            failure is raised.

    Returns:
        name -> the runs that count, in order, as many for each.

    Raises:
        CommandFailed: a command failed, and there is no `failures`.
    """
    seen: dict[str, list[Figures]] = {name: [] for name in commands}

    def turn() -> None:
        for name in list(seen):
            if between is not None:
                between()
            try:
                seen[name].append(measure(commands[name]))
            except CommandFailed as error:
                if failures is None:
                    raise
                failures[name] = str(error)
                del seen[name]

    turn()
    first_counts = any(runs[0].wall > long for runs in seen.values())
    if not first_counts:
        seen = {name: [] for name in seen}
    for _ in range(rounds - first_counts):
        turn()
    if between is not None:
        between()
    return seen


def measure(command: Sequence[str]) -> Figures:
    """Runs one command to its end.

    Raises:
        CommandFailed: it did not exit with 0.
    """
    own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT, env=_environment())
        sampler = _MemorySampler(process.pid)
        try:
            # Not `process.wait()`: what this child used, and no other, comes with the status.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            sampler.stop()
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit status {process.returncode}"
            raise CommandFailed(reason)
    # A child starts with its parent's peak on its account (it shares its memory until it executes the command), so
    # the kernel's figure says something about the child only when it is the larger one.
    resident = usage.ru_maxrss if usage.ru_maxrss > own_peak else sampler.resident
    return Figures(wall, usage.ru_utime + usage.ru_stime, resident * 1024 / 1e9, sampler.anonymous * 1024 / 1e9)


def _environment() -> dict[str, str]:
    """This process's own, but Python keeps what it compiles, as it does where people work."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def memory_at_hand(folder: Path, byte_count: int) -> None:
    """Writes a file of `byte_count` bytes into `folder` and removes it: a file written next finds its pages at hand.

    A virtual machine that returns free memory to its host pays up to 2 CPU s a GB for a page that it takes again, and
    whichever command ran first after a pause paid for all. Anonymous memory taken and given back does not help.
    """
    block = bytes(1 << 20)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(byte_count >> 20):
            file.write(block)


class _MemorySampler:
    """Follows the memory of a process from a thread of its own; `resident` and `anonymous` are peaks in KiB."""

    def __init__(self, pid: int) -> None:
        self.resident = self.anonymous = 0
        self._path = f"/proc/{pid}/status"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            try:
                with open(self._path) as file:
                    fields = dict(line.split(":", 1) for line in file)
            except OSError:
                return
            # A process that has ended and was not waited for yet has no memory fields any more.
            self.resident = max(self.resident, int(fields.get("VmHWM", "0").split()[0]))
            self.anonymous = max(self.anonymous, int(fields.get("RssAnon", "0").split()[0]))
            if self._ended.wait(_SAMPLING_SECONDS):
                return


def tell(line: str) -> None:
    """Progress, on stderr: stdout is for the tables."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown section with one table."""
    lines = [f"## {title}", "", note, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])
