"""A gate that lets work begin only while all work in hand fits into a budget of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
