"""Who evaluates candidates: this process, or a pool of processes that survives the death of its members.

All take the evaluator as a factory, so that models are loaded only where and when they are needed, and all make
every result durable before reporting it. Uses the study's store; driven by the loop. `Pool` is what pools have in
common; the one on Ray lives in `ray_workers`.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genepool import progress
from genepool.errors import GenepoolError, InputError
from genepool.evolution.breeding import FounderError
from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.store import StudyStore

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

Evaluate = Callable[[Candidate], Verdict]
Factory = Callable[[], Evaluate]

#: How often a candidate whose worker died goes back to the queue before its death is its result.
RETURNS = 2

_GOODBYE_SECONDS = 5.0
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Workers(ABC):
    """Evaluates candidates in any order and makes each result durable before yielding it."""

    @abstractmethod
    def stream(self, feed: Callable[[], Candidate | None]) -> Iterator[tuple[Candidate, Verdict]]:
        """Evaluates what `feed` gives, yielding every candidate with its verdict as it finishes.

        Args:
            feed: asked for a candidate whenever a worker would else have none; None when there is none now. The
                stream ends when nothing is being evaluated and there is none.
        """

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Verdict]]:
        """Evaluates these, as `stream` does; stopping early leaves the rest unfinished."""
        queue = iter(candidates)
        return self.stream(lambda: next(queue, None))

    @abstractmethod
    def close(self) -> None:
        """Ends what is running; unfinished candidates stay unfinished."""


def judge(evaluate: Evaluate, store: StudyStore, candidate: Candidate) -> Verdict:
    """Evaluates one candidate and commits the verdict; an exception of the candidate's is its verdict.

    What is not the candidate's doing (a full disk, a damaged ledger or founder) is raised: it would fail them all.
    """
    verdict = attempt(evaluate, candidate)
    store.finish(candidate, verdict)
    return verdict


def attempt(evaluate: Evaluate, candidate: Candidate) -> Verdict:
    """Evaluates one candidate as `judge` does, and commits nothing."""
    try:
        return evaluate(candidate)
    except Exception as error:
        if _is_surroundings(error):
            raise
        said = str(error) if isinstance(error, GenepoolError) else f"{type(error).__name__}: {error}"
        return Verdict(None, error=" ".join(said.split()))


def _is_surroundings(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, FounderError | sqlite3.Error) or (
            isinstance(error, OSError) and error.errno in _DISK_ERRORS
        ):
            return True
        error = error.__cause__
    return False


class InProcess(Workers):
    """Evaluates in this process, one candidate after the other."""

    def __init__(self, factory: Factory, store: StudyStore) -> None:
        self._factory, self._store = factory, store
        self._evaluate: Evaluate | None = None

    def stream(self, feed: Callable[[], Candidate | None]) -> Iterator[tuple[Candidate, Verdict]]:
        while (candidate := feed()) is not None:
            if self._evaluate is None:
                self._evaluate = self._factory()
            with progress.silenced():
                verdict = judge(self._evaluate, self._store, candidate)
            yield candidate, verdict

    def close(self) -> None:
        """Lets go of the models."""
        self._evaluate = None


class WorkerHandle(Protocol):
    """One worker of a pool, as its driver sees it.

    Attributes:
        candidate: what it evaluates; None while it starts or waits.
        idle: whether it waits for a candidate.
        since: when it was given the candidate, by the monotonic clock, which no clock change moves.
    """

    candidate: Candidate | None
    idle: bool
    since: float

    def give(self, candidate: Candidate) -> None:
        """Hands it a candidate to evaluate."""

    def take(self) -> Verdict | BaseException | str | None:
        """What it says, once it has spoken: a durable verdict, an error of the surroundings, "ready"; None if dead."""

    def death(self) -> str:
        """How it died, as a clause."""

    def end(self) -> None:
        """Ends it, whatever it does."""


class Pool(Workers):
    """Members that evaluate one candidate at a time, each with an evaluator of its own that stays for the whole run.

    A member that dies costs nothing but its candidate's time: the candidate goes back to the queue, twice at most,
    and another member starts.

    Args:
        store_path: the study file.
        count: number of members.
        time_limit: seconds that one evaluation may take; a member that takes longer is ended, and its candidate has
            failed. None for no limit.
    """

    def __init__(self, store_path: Path, count: int, time_limit: float | None = None) -> None:
        self._store_path, self._count, self._time_limit = store_path, count, time_limit
        self._members: list[Any] = []

    @abstractmethod
    def _hire(self) -> WorkerHandle:
        """Starts a member."""

    @abstractmethod
    def _wait(self, seconds: float | None) -> list[Any]:
        """The members that have something to say; waits until there are some, but no longer than `seconds`."""

    def stream(self, feed: Callable[[], Candidate | None]) -> Iterator[tuple[Candidate, Verdict]]:
        queue: deque[Candidate] = deque()
        deaths: Counter[str] = Counter()
        stillborn = 0
        with StudyStore(self._store_path) as store:
            while True:
                busy = sum(member.candidate is not None for member in self._members)
                while busy + len(queue) < self._count and (fed := feed()) is not None:
                    queue.append(fed)
                if not busy and not queue:
                    return
                while len(self._members) < min(self._count, busy + len(queue)):
                    self._members.append(self._hire())
                for member in self._members:
                    if queue and member.idle:
                        member.give(queue.popleft())
                late = self._end_overdue(store)
                yield from late
                if late:
                    continue
                for member in self._wait(self._patience()):
                    candidate = member.candidate
                    message = member.take()
                    if message is None:
                        self._members.remove(member)
                        if candidate is None:
                            stillborn += 1
                            if stillborn > RETURNS:
                                raise InputError(
                                    f"workers die while starting ({member.death()})", fix="Use fewer workers"
                                )
                            continue
                        deaths[candidate.id] += 1
                        if deaths[candidate.id] <= RETURNS:
                            queue.appendleft(candidate)
                            continue
                        verdict = Verdict(None, error=f"its worker died {RETURNS + 1} times ({member.death()})")
                        store.finish(candidate, verdict)
                    elif isinstance(message, BaseException):
                        raise message
                    elif candidate is None or isinstance(message, str):
                        continue
                    else:
                        verdict = message
                    assert candidate is not None
                    yield candidate, verdict

    def _patience(self) -> float | None:
        """Seconds until the next evaluation is over its time; None where nothing can be."""
        since: list[float] = [member.since for member in self._members if member.candidate is not None]
        if self._time_limit is None or not since:
            return None
        return max(0.0, min(since) + self._time_limit - time.monotonic())

    def _end_overdue(self, store: StudyStore) -> list[tuple[Candidate, Verdict]]:
        """Ends the members that are over their time; their candidates with what is on record of them."""
        limit, now = self._time_limit, time.monotonic()
        late = [m for m in self._members if limit is not None and m.candidate is not None and now - m.since >= limit]
        for member in late:
            self._members.remove(member)
            member.end()
        ended = []
        for candidate in (member.candidate for member in late):
            assert candidate is not None
            store.finish(candidate, Verdict(None, error=f"took longer than {limit:g} s"))
            # Its worker may have been through just before it was ended: then that is what stands.
            verdict = store.result(candidate)
            assert verdict is not None
            ended.append((candidate, verdict))
        return ended

    def close(self) -> None:
        """Ends every member at once. What is not committed yet is not lost but evaluated by the next run."""
        for member in self._members:
            member.end()
        self._members = []


class ProcessPool(Pool):
    """Evaluates in `count` processes of this machine, which end with this process, however it ends.

    Args:
        factory: builds a worker's evaluator; must be picklable.
        store_path: the study file, opened by every worker for itself.
        count: number of processes.
        time_limit: as for `Pool`.
    """

    def __init__(self, factory: Factory, store_path: Path, count: int, time_limit: float | None = None) -> None:
        super().__init__(store_path, count, time_limit)
        self._factory = factory
        self._context = multiprocessing.get_context("spawn")

    def _hire(self) -> _WorkerProcess:
        return _WorkerProcess(self._context, self._factory, self._store_path)

    def _wait(self, seconds: float | None) -> list[_WorkerProcess]:
        ready = set(wait([member.connection for member in self._members], seconds))
        return [member for member in self._members if member.connection in ready]


class _WorkerProcess:
    """One worker process as its driver sees it."""

    def __init__(self, context: Any, factory: Factory, store_path: Path) -> None:
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_work, args=(theirs, factory, store_path), daemon=True, name="genepool-worker"
        )
        # A worker inherits the blocked signal, so Ctrl-C cannot hit it while it is still importing. The tracker's own
        # start would unblock it again, so that comes first.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.candidate: Candidate | None = None
        self.idle = False
        self.since = 0.0

    def give(self, candidate: Candidate) -> None:
        self.candidate, self.idle, self.since = candidate, False, time.monotonic()
        # A worker that is already dead is noticed at the next wait.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(candidate)

    def take(self) -> Verdict | BaseException | str | None:
        try:
            message: Verdict | BaseException | str = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None
        self.candidate, self.idle = None, True
        return message

    def death(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return (
                f"killed by {signal.Signals(-code).name}; out of memory?" if code == -9 else signal.Signals(-code).name
            )
        return f"exit code {code}"

    def end(self) -> None:
        # An idle worker leaves when its driver hangs up; a busy one is not waited for.
        self.connection.close()
        if self.idle:
            self.process.join(_GOODBYE_SECONDS)
        self.process.kill()
        self.process.join()


def _work(connection: Connection, factory: Factory, store_path: Path) -> None:
    """The life of a worker: build the evaluator, then judge candidates until the driver is gone."""
    # Ctrl-C reaches the whole process group; ending workers is the driver's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    from tqdm import tqdm  # type: ignore[import-untyped]

    # The driver shows how far the study is; bars of several workers would write over each other.
    progress.set_quiet(True)
    # tqdm, which transformers uses, would lock across processes, and a killed worker would leave that lock behind.
    tqdm.set_lock(threading.RLock())
    try:
        evaluate = factory()
        with StudyStore(store_path) as store:
            connection.send("ready")
            while True:
                connection.send(judge(evaluate, store, connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        known = isinstance(error, GenepoolError)
        connection.send(error if known else InputError(f"a worker failed: {type(error).__name__}: {error}"))


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    wait([driver.sentinel])
    # At once and without handlers: an evaluation nobody waits for would only slow down the run that goes on.
    os._exit(1)
