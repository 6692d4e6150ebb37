"""Workers on Ray: a pool whose members are actors, on this machine or on a cluster.

The driver puts the models into Ray's object store once, and every node reads one copy. An actor on another node keeps
its outcomes to itself and sends them back with the verdict; the driver records outcomes first, then the verdict, so
what is on record is what it would be with processes. Uses the pool of `workers`; Ray is imported when it is asked for.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import GenepoolError, InputError, one_line
from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.store import StudyStore
from genepool.evolution.workers import Evaluate, Pool, attempt

if TYPE_CHECKING:
    from genepool.tasks import Ledger
    from genepool.tasks.ledger import Outcome

Recorded = tuple[str, str, str, str, list[tuple[str, str, "Outcome"]]]


@dataclass
class Home:
    """What an actor is told of the world when it starts.

    Attributes:
        here: whether it runs on the driver's machine, whose files it may use.
        shared: what the driver put into the object store, back from it.
        recorded: the actor's outcomes that the driver has not seen yet.
        births: births by name, as the driver tells them.
    """

    here: bool
    shared: Any = None
    recorded: list[Recorded] = field(default_factory=list)
    births: dict[str, Any] = field(default_factory=dict)


#: Builds an actor's evaluator from what it is told; must be picklable.
RayFactory = Callable[[Home], Evaluate]


def connect(workers: str, threads: int) -> int:
    """Starts Ray or joins a cluster.

    Args:
        workers: "ray", "ray:N" (this machine) or "ray://host:port" (a cluster).
        threads: processors that one worker takes.

    Returns:
        How many workers there are to be.

    Raises:
        InputError: Ray is not installed, or cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed", where="--workers", fix='pip install "genepool[ray]"') from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if workers.startswith("ray://"):
        try:
            ray.init(workers, **quiet)
        except Exception as error:
            raise InputError(
                f"no Ray cluster answers ({one_line(error)})",
                where="--workers",
                fix="Check the address",
            ) from None
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
        return max(1, int(resources.get("CPU", 1)) // threads)
    number = workers.removeprefix("ray").removeprefix(":")
    count = max(1, (os.cpu_count() or 1) // threads) if not number else int(number)
    if not ray.is_initialized():
        # A task may ask for more than there is only where the machine is told to have it.
        ray.init(num_cpus=max(count * threads, os.cpu_count() or 1), include_dashboard=False, **quiet)
    return count


class RayPool(Pool):
    """Evaluates in Ray actors; the driver makes every result durable.

    Args:
        factory: builds an actor's evaluator.
        store_path: the study file, which only the driver uses.
        count: number of actors.
        time_limit: as for `Pool`.
        threads: processors an actor takes.
        ledger: where outcomes that come back are recorded; None where evaluators have none.
        shared: goes into the object store once; a `Home` brings it back.
        births: genomes of a candidate's ancestors by name, for actors that cannot read the record.
    """

    def __init__(
        self,
        factory: RayFactory,
        store_path: Path,
        count: int,
        time_limit: float | None = None,
        *,
        threads: int = 1,
        ledger: Path | None = None,
        shared: Any = None,
        births: Callable[[Candidate], Mapping[str, Any]] = lambda _candidate: {},
    ) -> None:
        import ray

        super().__init__(store_path, count, time_limit)
        self._factory, self._threads, self._ledger, self._births = factory, threads, ledger, births
        self._shared = ray.put(shared)
        self._node = ray.get_runtime_context().get_node_id()

    def _hire(self) -> _RayMember:
        return _RayMember(self)

    def _wait(self, seconds: float | None) -> list[Any]:
        import ray

        waiting = {member.answer: member for member in self._members if member.answer is not None}
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=seconds)
        # Others may have spoken at the same time: take them along.
        more, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [waiting[answer] for answer in {*ready, *more}]

    def actor(self) -> Any:
        """A new actor."""
        import ray

        remote = ray.remote(num_cpus=self._threads, max_restarts=0, max_task_retries=0)(_Actor)
        return remote.remote(self._factory, self._shared, self._node, self._threads)

    def ancestors(self, candidate: Candidate) -> Mapping[str, Any]:
        """See `births`."""
        return self._births(candidate)

    def commit(self, candidate: Candidate, verdict: Verdict, recorded: Iterable[Recorded]) -> Verdict:
        """Outcomes first, then the verdict; what stands on record."""
        recorded = list(recorded)
        if self._ledger is not None and recorded:
            from genepool.tasks import Ledger

            with Ledger(self._ledger) as book:
                book.record_all(recorded)
        with StudyStore(self._store_path) as store:
            store.finish(candidate, verdict)
            stands = store.result(candidate)
        assert stands is not None
        return stands

    def close(self) -> None:
        """Ends every actor and, where it was started for this run, Ray."""
        super().close()
        import ray

        ray.shutdown()


class _RayMember:
    """One actor as its driver sees it."""

    def __init__(self, pool: RayPool) -> None:
        self._pool, self._actor = pool, pool.actor()
        self.candidate: Candidate | None = None
        self.idle, self.since = False, 0.0
        self._cause = ""
        self.answer: Any = self._actor.ready.remote()

    def give(self, candidate: Candidate) -> None:
        self.candidate, self.idle, self.since = candidate, False, time.monotonic()
        self.answer = self._actor.judge.remote(candidate, dict(self._pool.ancestors(candidate)))

    def take(self) -> Verdict | BaseException | str | None:
        import ray

        candidate, answer, self.answer = self.candidate, self.answer, None
        try:
            said = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, GenepoolError):
                return cause
            return InputError(f"a worker failed: {type(cause).__name__}: {' '.join(str(cause).split())}")
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            self._cause = type(error).__name__
            return None
        self.candidate, self.idle = None, True
        if candidate is None:
            return "ready"
        verdict, recorded = said
        return self._pool.commit(candidate, verdict, recorded)

    def death(self) -> str:
        return f"its actor or node is gone: {self._cause}"

    def end(self) -> None:
        import ray

        ray.kill(self._actor)


class _Actor:
    """The life of a worker on Ray."""

    def __init__(self, factory: RayFactory, shared: Any, driver_node: str, threads: int) -> None:
        import ray

        from genepool import progress

        progress.set_quiet(True)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._home = Home(ray.get_runtime_context().get_node_id() == driver_node, shared)
        self._factory = factory
        self._evaluate: Evaluate | None = None

    def ready(self) -> bool:
        """Builds the evaluator; what goes wrong here is nobody's verdict."""
        self._evaluate = self._factory(self._home)
        return True

    def judge(self, candidate: Candidate, births: Mapping[str, Any]) -> tuple[Verdict, list[Recorded]]:
        """A verdict, and the outcomes it rests on as far as the driver's ledger does not have them."""
        assert self._evaluate is not None
        self._home.births.update(births)
        verdict = attempt(self._evaluate, candidate)
        recorded = list(self._home.recorded)
        self._home.recorded.clear()
        return verdict, recorded


def reporting_ledger(home: Home, path: Path) -> Ledger:
    """The ledger of an actor: the driver's own on its machine; elsewhere one of its own, whose rows are sent back."""
    from genepool.tasks import Ledger

    if home.here:
        return Ledger(path)

    class Telling(Ledger):
        def record(
            self, fingerprint: str, name: str, task: str, asking: str, outcomes: Iterable[tuple[str, str, Outcome]]
        ) -> None:
            rows = list(outcomes)
            super().record(fingerprint, name, task, asking, rows)
            home.recorded.append((fingerprint, name, task, asking, rows))

    return Telling(Path(tempfile.mkdtemp(prefix="genepool-")) / "ledger.sqlite")


def build_on_ray(
    home: Home,
    *,
    study: Any,
    where: str,
    ledger: Path,
    plugins: Collection[Path],
    out: Path,
    resident: Sequence[str],
    trust: Any,
    device: str,
) -> Evaluate:
    """An actor's evaluator; the rest are the arguments of `build_evaluator`.

    Models come from the object store where the driver put them there; bred models' founders are read from their files,
    which every node must have at the same place.
    """
    from genepool.evolution.evaluator import build_evaluator
    from genepool.weights.shared_memory import shared_weights

    sources = None
    if home.shared is not None:
        base = shared_weights(home.shared[study.reference])
        sources = {study.reference: base}
        sources |= {name: shared_weights(parts, base) for name, parts in home.shared.items() if name != study.reference}
    place = out if home.here else Path(tempfile.mkdtemp(prefix="genepool-"))
    book = reporting_ledger(home, ledger)
    evaluator = build_evaluator(study, where, ledger, plugins, place, resident, sources, book, trust, device)

    def evaluate(candidate: Candidate) -> Verdict:
        evaluator.representation.tell_ancestors(home.births)
        return evaluator(candidate)

    return evaluate
