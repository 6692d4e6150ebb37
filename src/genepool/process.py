"""What the command makes of its process: streams that may be full, closed or unread, and signals that end it."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import ReadableBuffer as Buffer

_AGAIN = b"error: interrupted twice. What was finished is kept; run the same command to go on.\n"


def open_streams() -> str | None:
    """Puts streams in place of the standard ones that end in one line where a plain one would end in a traceback.

    A reader of stdout that leaves, as `| head` does, is no error: the command goes on to its own end and exit code. A
    stdout that takes no more is a `InputError`. On stderr nobody would read about it, so what it does not take is lost.
    Text that a stream's encoding lacks is escaped.

    Returns:
        What is wrong with stdout from the start, or None.
    """
    closed = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Taken at once: the next file to be opened would get the number, and be written to as the stream.
            os.open(os.devnull, os.O_RDWR)
            closed.append(number)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = _wrapped(sys.stdout, 1)
    sys.stderr = _wrapped(sys.stderr, 2)
    return "standard output is closed. Send it to a file, or to /dev/null." if 1 in closed else None


def _wrapped(stream: Any, number: int) -> Any:
    if stream is not None and not isinstance(stream, io.TextIOWrapper):
        return stream
    writer = io.BufferedWriter(_Output(number, "w", closefd=False))
    if stream is None:
        return io.TextIOWrapper(writer, "utf-8", "backslashreplace", line_buffering=True)
    return io.TextIOWrapper(
        writer, stream.encoding, "backslashreplace",
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip


class _Output(io.FileIO):
    """A standard stream whose reader may leave and whose disk may be full."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # From here on it takes everything: what is still in its buffer would raise again at the very end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError) or self.fileno() == 2:
                return super().write(data)
            raise InputError(
                error.strerror or "cannot be written", where="standard output", fix="Send it to a place that takes it"
            ) from error


def listen() -> None:
    """SIGTERM ends a command as Ctrl-C does, and a second one of either ends it at once.

    The first waits for the end of an import: extensions in C++, as torch has them, abort the process when it is raised
    while they are set up. A signal that was ignored when the process began, as `nohup` and a shell's `&` have it, stays
    ignored.
    """
    told = False

    def stop(_number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os.write(2, _AGAIN)
            os._exit(130)
        told = True
        if (importing := _import_around(frame)) is None:
            raise KeyboardInterrupt
        before = sys.getprofile()

        def watch(frame: FrameType, event: str, _: object) -> None:
            if frame is importing and event == "return":
                sys.setprofile(before)
                raise KeyboardInterrupt

        sys.setprofile(watch)

    for number, untouched in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == untouched:
            signal.signal(number, stop)


def _import_around(frame: FrameType | None) -> FrameType | None:
    """The outermost import that is under way; None outside of all."""
    found = None
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            found = frame
        frame = frame.f_back
    return found


def leave(code: int) -> None:
    """Ends the process with an exit code that is decided: a signal on the way ends it at once, with the same code.

    Python's own end would take all that was imported apart, which takes longer than many commands, and die of a signal
    meanwhile. What is registered to run at the end does run, and threads are waited for, but after an interrupt.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))
    if code != 130:
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(InputError):
            stream.flush()
    os._exit(code)
