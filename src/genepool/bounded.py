"""Bounds on work that a stranger's file asks for: a file without an end, a template that wants all time or memory.

No look at a template or a regular expression tells what it will take, so it runs under a limit. The limits are the
system's own: a timer of the processor's time of this process, and the size of its memory. Work that ends by itself
takes no longer.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genepool.errors import InputError

#: Seconds of the processor, and bytes beyond what the process holds. What people write takes milliseconds and a few KB.
SECONDS, BYTES = 5.0, 1 << 30
#: Bytes for a template, which makes a text for people or a model.
TEXT_BYTES = 48 << 20

#: Values in a JSON file, at most. The tokenizer of 250,000 tokens has two million, the index of a large model 100,000.
MOST_VALUES = 5_000_000

_MOST_TEXT = 8 << 30
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


def read_bytes(path: Path, most: int, *, pipes: bool = False, fix: str = "Check the file") -> bytes:
    """The bytes of a small file; no device and no pipe without an end.

    Args:
        path: the file.
        most: bytes that such a file holds at most.
        pipes: whether a pipe will do, such as a shell's `<(...)`.
        fix: the way out where the file is wrong.

    Raises:
        InputError: it cannot be read, is not a regular file, or holds more.
    """
    try:
        # Opening a pipe waits for whoever writes into it; reading from one that nobody has open ends at once.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            mode = os.fstat(handle).st_mode
            if not (stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode))):
                raise InputError("is not a regular file", where=path, fix=fix)
            os.set_blocking(handle, True)
            with open(handle, "rb", closefd=False) as file:
                data = file.read(most + 1)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise InputError("no such file", where=path, fix="Check the path") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="Check its permissions") from None
    if len(data) > most:
        raise InputError(f"holds more than {most:,} bytes", where=path, fix=fix)
    return data


def refuse_values(data: bytes, *, where: str | Path, fix: str) -> None:
    """Refuses JSON of more values than any file of its kind holds: each takes up to thirty times its bytes in memory.

    Args:
        data: the JSON, not parsed yet.
        where: the file.
        fix: the way out.

    Raises:
        InputError: it holds too many.
    """
    # Every value but the first stands behind one of these; those within texts count too.
    count = sum(map(data.count, (b",", b"[", b"{")))
    if count > MOST_VALUES:
        raise InputError(f"holds {count:,} values, expected at most {MOST_VALUES:,}", where=where, fix=fix)


def read_text(path: Path, *, fix: str, encoding: str = "utf-8") -> str:
    """The text of a file of any size that memory takes, or of a pipe.

    Args:
        path, fix: as for `read_bytes`.
        encoding: how it is stored.

    Raises:
        InputError: as `read_bytes`, or it is no text.
    """
    try:
        return read_bytes(path, _MOST_TEXT, pipes=True, fix=fix).decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"cannot be read ({error})", where=path, fix=fix) from None


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
