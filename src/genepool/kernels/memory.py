"""Memory: what is free, and a gate that lets work begin only while all work in hand fits into a budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MACHINE = "/proc/meminfo"
_CONTAINER = "/sys/fs/cgroup"


class MemoryGate:
    """Threads wait at it until their share is free; one that is larger than the budget goes alone.

    Args:
        budget: bytes that all holders together may take.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Holds `nbytes` of the budget for the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + nbytes <= self.budget)
            self._held += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._held -= nbytes
                self._changed.notify_all()


def free_memory() -> int:
    """Bytes that a process can have now without swapping: of the machine, or of the container it runs in."""
    lines = _lines(_MACHINE)
    found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    limit, used = _lines(f"{_CONTAINER}/memory.max"), _lines(f"{_CONTAINER}/memory.current")
    if limit and used and limit[0].isdecimal() and used[0].isdecimal():
        # Pages of files that were read count as used, and are given back when they are wanted.
        cached = [
            int(line.split()[1]) for line in _lines(f"{_CONTAINER}/memory.stat") if line.startswith("inactive_file ")
        ]
        found.append(max(0, int(limit[0]) - int(used[0]) + sum(cached)))
    # Where nobody says, nothing is refused.
    return min(found, default=1 << 62)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
