"""Commands run as forks of one process that has imported everything: a run costs what it does, not its start-up.

As a program this file is that process: it reads requests from stdin, one JSON line each, and forks a child for every
command. `Forks` starts it and speaks to it. It computes nothing itself, because threads do not survive a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# Only a command that hangs takes so many seconds.
PATIENCE = 300.0
CALM = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
# A stdout that is closed, and one whose reader has left; `/dev/full` is a file.
CLOSED, UNREAD = "closed", "unread"
# What changes the disk, of the events that Python tells its audit hooks; an `open` counts when it is for writing.
_STEPS = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Forked:
    """A command that runs in a fork, in a process group of its own; `pid` stays its own until `wait`."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks, self.pid = forks, pid

    def signal(self, number: int) -> None:
        """Sends a signal to all of the group."""
        os.killpg(self.pid, number)

    def wait(self) -> int:
        """The exit code, negative for the signal that ended it."""
        code: int | None = self._forks.ask(do="wait", pid=self.pid, seconds=PATIENCE)["code"]
        if code is None:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"still running after {PATIENCE:.0f} s")
        return code

    def ended(self, seconds: float) -> bool:
        """Waits so long at most for its end."""
        return bool(self._forks.ask(do="look", pid=self.pid, seconds=seconds)["ended"])

    def stopped(self) -> bool:
        """Waits until it has stopped itself; false when it has ended instead."""
        return bool(self._forks.ask(do="look", pid=self.pid, seconds=PATIENCE)["stopped"])


class Forks:
    """The process that forks; also a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **CALM},
            start_new_session=True,
        )
        # What is measured next is not to hold the imports.
        self.ask(do="nothing")

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        errors: Path,
        signals: Mapping[int, int] | None = None,
        cpu: int = 0,
        out: str = os.devnull,
        trouble: str = "",
    ) -> Forked:
        """Starts a command.

        Args:
            arguments: without `genepool` itself.
            folder: where it works. What it does below the folder above is counted; the count stands in `errors.steps`.
            env: beside the environment of this process.
            errors: the file for its stderr; `errors.megabytes` says how far it grew, `errors.seconds` what it took of
                the processor, and `errors.modules` what it imported.
            signals: before the step of a number, counted from 1, it sends itself this signal.
            cpu: seconds of the processor after which the system ends it; 0 for no limit.
            out: the file for its stdout, `CLOSED` or `UNREAD`.
            trouble: "clock" for one that goes backwards, "nobody" for a user who owns nothing.
        """
        places = {"folder": str(folder), "errors": str(errors), "out": out}
        how = {"signals": sorted((signals or {}).items()), "cpu": cpu, "trouble": trouble}
        answer = self.ask(do="start", arguments=list(arguments), env=dict(env), **how, **places)
        return Forked(self, answer["pid"])

    def ask(self, **request: Any) -> dict[str, Any]:
        """What the process answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended; its stderr says why"
        answer: dict[str, Any] = json.loads(line)
        return answer


# ---------------------------------------------------------------------- the process that forks


def _serve() -> None:
    _import_everything()
    # A lock that another thread held in a fork would never be let go of.
    threads = Path("/proc/self/task")
    assert not threads.is_dir() or len(list(threads.iterdir())) == 1, "something imported has started threads"
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            if not (pid := os.fork()):
                _command(request)
            # Here and in the child: whoever comes first, the group is there when the pid is told.
            os.setpgid(pid, pid)
            answer: dict[str, Any] = {"pid": pid}
        elif request["do"] == "import":
            _import_more(request["modules"])
            answer = {}
        else:
            answer = _look(request) if "pid" in request else {}
        print(json.dumps(answer), flush=True)


def _import_everything() -> None:
    import gc
    import importlib
    import pkgutil

    import genepool

    for found in pkgutil.walk_packages(genepool.__path__, "genepool."):
        if found.name != "genepool.__main__":
            importlib.import_module(found.name)
    import peft  # noqa: F401
    import rich.console
    import rich.table  # noqa: F401
    import torch
    import typer
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

    from genepool.adaptation import runner
    from genepool.merging import run

    torch.set_num_threads(1)
    # A merge makes a note of what is done after so many bytes, and a stream after so many batches; of these small ones,
    # too, there is to be some to go on.
    run._SYNC_BYTES, runner.EVERY = 1 << 16, 4
    from genepool.cli import main

    for name in ("", *typer.main.get_command(main.build_app("")).commands):
        main._command(main.build_app, name)
    _forget_ends()
    # A child that looks for garbage among what is imported would copy all of its memory.
    gc.collect()
    gc.freeze()


def _forget_ends() -> None:
    """What other libraries want to do when an interpreter ends takes longer than most commands, and a fork needs none.

    What a command asks for itself is done.
    """
    import weakref

    atexit._clear()
    for one in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        one.atexit = False
    atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]


def _import_more(names: Sequence[str]) -> None:
    """Modules that commands import while they run, unless one of them starts threads: a fork would lose them."""
    import gc
    import importlib

    def load() -> None:
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    if not (pid := os.fork()):
        load()
        os._exit(len(list(Path("/proc/self/task").iterdir())) - 1)
    if os.waitpid(pid, 0)[1]:
        return
    load()
    _forget_ends()
    gc.collect()
    gc.freeze()


def _command(request: Mapping[str, Any]) -> NoReturn:
    """In the child: what the typed command does, from its working folder to its exit code."""
    os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.environ.update(request["env"])
    _give_streams(request["out"], request["errors"])
    _trouble(request["trouble"])
    steps = _count_steps(dict(request["signals"]))
    if request["cpu"]:
        resource.setrlimit(resource.RLIMIT_CPU, (request["cpu"], request["cpu"] + 5))
    from genepool.cli.main import answer

    # Where the tests run in the background, a shell has them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    known = set(sys.modules)
    before, began = _megabytes(), time.process_time()
    code = answer(request["arguments"])
    grown, took = _megabytes() - before, time.process_time() - began
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # What ends an interpreter, but for taking apart all that was imported, which takes longer than most commands.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    imported = sorted(set(sys.modules) - known)
    # Counted before these files are written, which are no steps of the command.
    counted = steps()
    told = {"megabytes": f"{grown:.0f}", "seconds": f"{took:.3f}", "steps": counted, "modules": "\n".join(imported)}
    for what, value in told.items():
        # Another user may not write there.
        with contextlib.suppress(PermissionError):
            Path(f"{request['errors']}.{what}").write_text(str(value))
    os._exit(code)


def _give_streams(out: str, errors: str) -> None:
    opened = [os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644) for place in (os.devnull, errors)]
    os.dup2(opened[0], 0)
    os.dup2(opened[1], 2)
    if out == CLOSED:
        os.close(1)
    elif out == UNREAD:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
    else:
        os.dup2(os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), 1)


def _trouble(kind: str) -> None:
    """Makes this process one that has it hard; see `Forks.start`."""
    if kind == "nobody":
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    elif kind == "clock":
        # From the year 2000 on, backwards.
        moments = itertools.count(946_684_800, -1)
        time.time = lambda: float(next(moments))
        time.time_ns = lambda: next(moments) * 10**9


def _megabytes() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _count_steps(signals: Mapping[int, int]) -> Callable[[], int]:
    """Counts what changes the disk and every statement to a database; sends signals before some of them."""
    place, count = str(Path.cwd().parent), 0

    def step() -> None:
        nonlocal count
        count += 1
        if count in signals:
            os.kill(os.getpid(), signals[count])

    def statement(_: str) -> None:
        nonlocal count
        count += 1
        if (number := signals.get(count)) in (signal.SIGINT, signal.SIGTERM):
            # SQLite drops what is raised in here: the signal comes as soon as this has returned.
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
            signal.setitimer(signal.ITIMER_REAL, 1e-4)
        elif number is not None:
            os.kill(os.getpid(), number)

    def inside(path: object) -> bool:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return text.startswith(place) or not text.startswith("/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & _FOR_WRITING and inside(arguments[0]):
                step()
        elif event in _STEPS and inside(arguments[0]):
            step()

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*arguments: Any) -> Any:
            step()
            return call(*arguments)

        return calling

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(statement)
        return connection

    connect = sqlite3.connect
    # Hooks are told nothing of these.
    os.fsync, os.pwrite, sqlite3.connect = counted(os.fsync), counted(os.pwrite), traced
    sys.addaudithook(hook)
    return lambda: count


def _look(request: Mapping[str, Any]) -> dict[str, Any]:
    """Waits until a child has ended or stopped itself; "wait" wants its end, and is the last that is asked of it."""
    waiting = request["do"] == "wait"
    wanted = os.WEXITED | os.WNOHANG | os.WNOWAIT | (0 if waiting else os.WSTOPPED)
    end, found = time.monotonic() + request["seconds"], None
    while (found := os.waitid(os.P_PID, request["pid"], wanted)) is None and time.monotonic() < end:
        time.sleep(0.002)
    if not waiting:
        stopped = found is not None and found.si_code == os.CLD_STOPPED
        return {"stopped": stopped, "ended": found is not None and not stopped}
    return {"code": None if found is None else os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])}


if __name__ == "__main__":
    _serve()
