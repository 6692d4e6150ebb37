"""Whole processes timed in turn, A B A B, so that a machine whose speed drifts drifts for both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """Medians over the runs of one command: wall and processor seconds, and peak anonymous memory in GB."""

    wall: float
    cpu: float
    anonymous: float


def time_in_turn(commands: Mapping[str, Sequence[str]], rounds: int = 3) -> dict[str, Figures]:
    """Runs every command once to warm up and `rounds` times in turn."""
    seen: dict[str, list[Figures]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            figures = _once(command)
            if number:
                seen[name].append(figures)
    return {
        name: Figures(*(statistics.median(getattr(run, key) for run in runs) for key in ("wall", "cpu", "anonymous")))
        for name, runs in seen.items()
    }


def _once(command: Sequence[str]) -> Figures:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous(process.pid))
        time.sleep(0.02)
    wall = time.perf_counter() - began
    _, error = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {error.decode()[-500:]}")
    # The child has been waited for: what it used is the growth of what all children used.
    usage = os.times()
    cpu = usage.children_user + usage.children_system - _once.before  # type: ignore[attr-defined]
    _once.before = usage.children_user + usage.children_system  # type: ignore[attr-defined]
    return Figures(wall, cpu, peak / 1e6)


_once.before = 0.0  # type: ignore[attr-defined]


def _anonymous(pid: int) -> int:
    """Anonymous resident memory in kB: mapped files do not count, the page cache can drop them."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def table(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown section with one table."""
    lines = [f"## {title}", "", note, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])
