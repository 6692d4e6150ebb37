"""Bounds on work that a stranger's file asks for: templates and regular expressions may want all time and all memory.

No look at a template or a pattern tells what it will take, so it runs under a limit. The limits are the system's own: a
timer of the processor's time of this process, and the size of its memory. Work that ends by itself takes no longer.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genepool.errors import InputError

#: Seconds of the processor, and bytes beyond what the process holds. What people write takes milliseconds and a few KB.
SECONDS, BYTES = 5.0, 1 << 30

# Pages of memory that the process has asked for, the first number; Linux has it.
_SIZES = Path("/proc/self/statm")


class _TimeIsOver(BaseException):
    """Not an `Exception`: what runs under the limit may catch those."""


@contextmanager
def bounded(
    what: str, *, where: str, fix: str, seconds: float | None = None, memory: int | None = None
) -> Iterator[None]:
    """Runs the block in bounded time and memory.

    Time is bounded in the main thread, where a command works: no other gets signals. A system without these limits, and
    a block within another one, go without.

    Args:
        what: the subject of the error, such as "the template".
        where: the file and key that ask for the work.
        fix: the way out.
        seconds: of the processor, over all threads of the process; 5 when None.
        memory: bytes that the block may take beyond what the process has; 1 GB when None.

    Raises:
        InputError: a limit was reached.
    """
    seconds, memory = SECONDS if seconds is None else seconds, BYTES if memory is None else memory
    try:
        with _bounded_memory(memory), _bounded_time(seconds):
            yield
    except _TimeIsOver:
        raise InputError(f"{what} takes more than {seconds:g} s", where=where, fix=fix) from None
    except MemoryError:
        raise InputError(f"{what} takes more than {memory >> 20:,} MB of memory", where=where, fix=fix) from None


@contextmanager
def _bounded_time(seconds: float) -> Iterator[None]:
    apart = threading.current_thread() is not threading.main_thread()
    if apart or not hasattr(signal, "setitimer") or signal.getsignal(signal.SIGPROF) not in (signal.SIG_DFL, None):
        yield
        return

    running = True

    def over(_number: int, _frame: object) -> None:
        if running:
            raise _TimeIsOver

    signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


@contextmanager
def _bounded_memory(size: int) -> Iterator[None]:
    if not _SIZES.is_file():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(_SIZES.read_text().split()[0]) * resource.getpagesize()
    least = min([taken + size, *(limit for limit in before if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (least, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
