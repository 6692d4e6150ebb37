"""Asking ahead: which candidate comes next while others are still being evaluated, and what may be told when.

A steady search depends on who is through first, so the order is on record: after how many told generations each was
asked for, and in which order they were told. A run that goes on repeats that order. Knows strategies and the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies.base import Breeder, Strategy


class AskingAhead:
    """What feeds the workers of a steady search.

    Args:
        strategy: freshly built, nothing asked or told yet, and `steady`.
        store: the study file.
        total: candidates in all; None for no end.
        on_record: (chosen, generation, told before it) -> the candidates, durable.
        seen: told every verdict that was on record already.
        tell: tells the strategy of one complete generation; returns whether the search may end.

    Attributes:
        told: how many generations were told.
    """

    def __init__(
        self,
        strategy: Strategy[Any] | Breeder[Any],
        store: StudyStore,
        total: int | None,
        on_record: Callable[[Any, int, int], Sequence[Candidate]],
        seen: Callable[[Verdict], None],
        tell: Callable[[int, Any], bool],
    ) -> None:
        self._strategy, self._store, self._total = strategy, store, total
        self._on_record, self._seen, self._tell = on_record, seen, tell
        self._asked_then, self._told_then = store.asked_after(), store.told_order()
        self._queue: deque[Candidate] = deque()
        # By generation: how many of its candidates have no verdict.
        self._missing: dict[int, int] = {}
        self._count = 0
        self._enough = False
        self.told = 0

    def feed(self) -> Candidate | None:
        """The next candidate to evaluate; None when there is none until another is through."""
        self._settle()
        while not self._queue and self._may_ask():
            self._ask()
            self._settle()
        return self._queue.popleft() if self._queue and not self._enough else None

    def finished(self, candidate: Candidate) -> None:
        """Notes that a candidate has its verdict."""
        self._missing[candidate.generation] -= 1

    def _may_ask(self) -> bool:
        if self._enough or (self._total is not None and self._count >= self._total):
            return False
        if self.told < self._due():
            return False
        # Whatever the strategy begins with, it begins with all of it.
        return not self._missing or self.told > 0

    def _due(self) -> int:
        """How many generations had been told when the next one was asked for, if it was."""
        number = len(self._missing)
        return self._asked_then[number] if number < len(self._asked_then) else 0

    def _ask(self) -> None:
        number = len(self._missing)
        asked = self._strategy.ask(ahead=True)
        size = len(asked) if self._total is None else min(len(asked), self._total - self._count)
        candidates = self._on_record(asked[:size], number, self.told)
        self._count += size
        # What the budget cuts off stays missing, so that a generation is told whole or not at all.
        self._missing[number] = len(asked)
        for candidate in candidates:
            known = self._store.result(candidate)
            if known is None:
                self._queue.append(candidate)
            else:
                self._seen(known)
                self.finished(candidate)

    def _settle(self) -> None:
        """Tells what is complete: first what is on record, in that order, then by number."""
        replayed = len(self._missing) < len(self._asked_then)
        while not self._enough and not (replayed and self.told >= self._due()):
            complete = [number for number in self._strategy.waiting if not self._missing[number]]
            if self.told < len(self._told_then):
                complete = [number for number in complete if number == self._told_then[self.told]]
            if not complete:
                return
            number = complete[0]
            self.told += 1
            self._enough = self._tell(number, self._strategy.waiting[number])
