"""Progress for anything over two seconds: a bar on a terminal, a plain line every second and a half elsewhere.

Everything goes to stderr, so stdout stays for results. `bar` may be nested; each block is one task. A ticker
thread speaks while the work is silent (imports, a long SVD), so the longest silence stays under two seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from genepool.checked import printable

_SILENCE_SECONDS = 1.5
_quiet = False
_lock = threading.RLock()
_stack: list[Bar] = []
_spoken = time.monotonic()
_live: Any = None


def set_quiet(quiet: bool) -> None:
    """Turns all progress off (`--quiet`) or on again; silence is counted from here."""
    global _quiet, _spoken
    _quiet, _spoken = quiet, time.monotonic()


@contextmanager
def silenced() -> Iterator[None]:
    """No progress from inside the block: for work whose own bars would hide the one around it."""
    # Not `set_quiet`: the bar around it is not heard by being hushed, so its silence goes on being counted.
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def message(text: str) -> None:
    """One line on stderr, unless quiet. Keeps a live bar intact."""
    if _quiet:
        return
    text = printable(text)
    with _lock:
        if _live is not None:
            _live.console.print(text, highlight=False, markup=False)
        else:
            _print(text)


def _print(line: str) -> None:
    global _spoken
    print(line, file=sys.stderr, flush=True)
    _spoken = time.monotonic()


class Bar:
    """One running task. `advance` and `note` may be called from any thread."""

    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self.title, self.total, self.unit = printable(title), total, unit
        self.done: float = 0
        self.text = ""
        self.started = time.monotonic()
        self._task: Any = None

    def advance(self, amount: float = 1) -> None:
        """Adds `amount` units of finished work."""
        self.done += amount
        self._refresh()

    def note(self, text: str) -> None:
        """Replaces the short remark shown behind the bar."""
        self.text = printable(text)
        self._refresh()

    def _refresh(self) -> None:
        if _live is not None and self._task is not None:
            _live.update(self._task, completed=self.done, note=self.text)

    def line(self) -> str:
        """The plain form: what, how far, how long, how much longer."""
        seconds = time.monotonic() - self.started
        parts = [self.title]
        if self.total:
            parts.append(f"{_count(self.done)}/{_count(self.total)} {self.unit}".rstrip())
        elif self.done:
            parts.append(f"{_count(self.done)} {self.unit}".rstrip())
        if self.text:
            parts.append(self.text)
        parts.append(f"{seconds:.0f} s")
        if self.total and 0 < self.done < self.total and seconds > 3:
            parts.append(f"about {seconds * (self.total - self.done) / self.done:.0f} s left")
        return " · ".join(parts)


def _count(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.1f}{suffix}"
    return f"{value:g}"


@contextmanager
def bar(title: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
    """Shows one task while the block runs.

    Args:
        title: what is being done ("merging", "loading the model").
        total: how many units there are; None when that is not known.
        unit: what is counted ("tensors", "examples").
    """
    task = Bar(title, total, unit)
    if _quiet:
        yield task
        return
    terminal = sys.stderr.isatty()
    with _lock:
        _stack.append(task)
        first = len(_stack) == 1
        if terminal:
            _start_live(task, first)
    stop = threading.Event()
    ticker = None
    if not terminal:
        _speak_up(_SILENCE_SECONDS / 2)
    if first and not terminal:
        ticker = threading.Thread(target=_tick, args=(stop,), daemon=True)
        ticker.start()
    try:
        yield task
    finally:
        stop.set()
        if ticker is not None:
            ticker.join()
        with _lock:
            _stack.remove(task)
            if terminal:
                _stop_live(task, first)


def _tick(stop: threading.Event) -> None:
    while not stop.wait(_SILENCE_SECONDS / 6):
        _speak_up(_SILENCE_SECONDS)


def _speak_up(silence: float) -> None:
    """Prints where the innermost task is, if nothing was printed for `silence` seconds.

    Many short tasks in a row must not be silent together.
    """
    with _lock:
        if _stack and time.monotonic() - _spoken >= silence:
            _print(_stack[-1].line())


def _start_live(task: Bar, first: bool) -> None:
    global _live
    if first:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        console = Console(stderr=True)
        _live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=40 if console.width >= 120 else 10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            # The remark alone may wrap: numbers that are cut off tell nothing.
            TextColumn("{task.fields[note]}", table_column=Column(), markup=False),
            console=console,
            transient=True,
        )
        _live.start()
    task._task = _live.add_task(task.title, total=task.total, unit=task.unit, note="")


def _stop_live(task: Bar, first: bool) -> None:
    global _live
    _live.remove_task(task._task)
    if first:
        _live.stop()
        _live = None
