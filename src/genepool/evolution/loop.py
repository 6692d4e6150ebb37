"""The loop of a study: ask, make durable, evaluate, tell; the same code begins a run and goes on with one.

A run that was killed is replayed generation by generation from the store: the strategy must propose what is on
record, and is told the fitness on record. Knows strategies, the store and workers; knows nothing of models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genepool import progress, staging
from genepool.errors import InputError
from genepool.evolution.store import Candidate, StudyStore, Verdict

if TYPE_CHECKING:
    import numpy as np

    from genepool.evolution.strategies import Strategy
    from genepool.evolution.study import Budget
    from genepool.evolution.workers import Workers

#: The run stops when more than this share of the candidates failed, counted once a whole generation is in.
MAX_FAILED = 0.5
_HISTORY_SECONDS = 2.0


class Decoder(Protocol):
    """Turns a strategy's point, shape (d,), into named parameters; `genome.Space` is one."""

    def genome(self, x: np.ndarray) -> dict[str, float]:
        """The genome at a point of the unit cube."""


@dataclass(frozen=True)
class Finalist:
    """One of the best candidates of a search.

    Attributes:
        candidate: the candidate.
        searched: what the search saw and chose it by; None for the strategy's own guess.
        judged: what it is worth on every validation example.
    """

    candidate: Candidate
    searched: Verdict | None
    judged: Verdict


class Search:
    """One run of a strategy over a store.

    Args:
        store: the study file; `begin` has been called on it.
        strategy: freshly built, nothing told yet.
        strategy_name: what the study calls it; part of the candidates' ids and of the history.
        decoder: turns points into genomes.
        workers: who evaluates.
        budget: when to end.
        seed: the seed candidates are merged with.
        history: the file that shows the run as JSON lines, written whole at most every two seconds.
        finalists: how many of the best are judged again on every validation example.
        clock: seconds; a test may bring its own.

    Attributes:
        out_of_time: whether minutes ended the search rather than evaluations.
    """

    def __init__(
        self,
        store: StudyStore,
        strategy: Strategy,
        strategy_name: str,
        decoder: Decoder,
        workers: Workers,
        *,
        budget: Budget,
        seed: int,
        history: Path,
        finalists: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._strategy, self._name = store, strategy, strategy_name
        self._decoder, self._workers, self._budget, self._seed = decoder, workers, budget, seed
        self._history, self._finalists, self._clock = history, finalists, clock
        self._before: float = store.get("seconds", 0.0)
        self._began = clock()
        self._written = -_HISTORY_SECONDS
        self._computed = 0
        self._best: float | None = None
        self._count = 0
        self._errors: list[str] = []
        self.out_of_time = False

    @property
    def seconds(self) -> float:
        """Seconds spent on this study so far, earlier sittings included."""
        return self._before + self._clock() - self._began

    def run(self) -> list[Finalist]:
        """Goes on until the budget is spent, and judges the best again.

        Returns:
            The finalists, the winner first.

        Raises:
            InputError: more than half of the candidates failed, or none succeeded; or what the store refuses.
            KeyboardInterrupt: Ctrl-C; everything finished is durable, and the same call goes on.
        """
        try:
            with progress.bar("evolving", self._budget.evaluations, "candidates") as bar:
                generations = self._generations(bar)
            return self._final_round(generations)
        finally:
            self._store.set("seconds", self.seconds)
            self._workers.close()
            self.write_history()

    def _generations(self, bar: progress.Bar) -> int:
        """Asks, evaluates and tells until the budget is spent; returns how many generations were told."""
        import numpy as np

        total = self._budget.evaluations
        count = generation = 0
        while total is None or count < total:
            xs = self._strategy.ask()
            size = len(xs) if total is None else min(len(xs), total - count)
            candidates = self._store.asked(
                self._name, generation, xs[:size], [self._decoder.genome(x) for x in xs[:size]], self._seed
            )
            if not self._evaluate(candidates, generation, bar):
                self.out_of_time = True
                break
            count += size
            if size < len(xs):
                break
            self._stop_when_most_fail()
            verdicts = [verdict for _, verdict in self._store.finished(generation)]
            fitness = np.array(self._finite([verdict.fitness for verdict in verdicts]))
            self._store.told(generation, fitness, self.seconds)
            self._strategy.tell(xs, fitness)
            if self._clock() - self._written >= _HISTORY_SECONDS:
                self.write_history()
            generation += 1
        return generation

    def _final_round(self, generations: int) -> list[Finalist]:
        """The best of the search and the strategy's own guess, judged on every validation example."""
        ranked = [(c, v) for c, v in self._store.finished() if v.fitness is not None]
        ranked.sort(key=lambda pair: -(pair[1].fitness or 0.0))
        if not ranked:
            raise InputError(
                "the budget ended before a candidate succeeded",
                where=self._store.path,
                fix="Allow more evaluations or minutes",
            )
        if not self._finalists:
            return [Finalist(ranked[0][0], ranked[0][1], ranked[0][1])]
        distinct: dict[tuple[float, ...], tuple[Candidate, Verdict | None]] = {}
        for candidate, verdict in ranked:
            distinct.setdefault(tuple(candidate.genome.values()), (candidate, verdict))
        chosen = list(distinct.values())[: self._finalists]
        x = self._strategy.guess()
        if x is not None:
            guess = self._store.guess(self._name, generations, self._decoder.genome(x), self._seed)
            chosen.append((guess, None))
        finals = [replace(candidate, final=True) for candidate, _ in chosen]
        pending = [candidate for candidate in finals if self._store.final(candidate) is None]
        with progress.bar("judging the best again", len(finals), "candidates") as bar:
            bar.advance(len(finals) - len(pending))
            for _ in self._workers.evaluate(pending):
                bar.advance()
        judged = [
            (candidate, seen, self._store.final(candidate)) for candidate, (_, seen) in zip(finals, chosen, strict=True)
        ]
        good = [Finalist(c, seen, verdict) for c, seen, verdict in judged if verdict and verdict.fitness is not None]
        if not good:
            raise InputError("every finalist failed to be judged again", where=self._store.path, fix="Run again")
        # The sort is stable: of equals, the one that did best in the search comes first.
        return sorted(good, key=lambda finalist: -(finalist.judged.fitness or 0.0))

    def _evaluate(self, candidates: list[Candidate], generation: int, bar: progress.Bar) -> bool:
        """Evaluates what has no verdict yet; False when time ran out first."""
        done = {candidate.id: verdict for candidate, verdict in self._store.finished(generation)}
        known = [done[candidate.id] for candidate in candidates if candidate.id in done]
        for verdict in known:
            self._count_in(verdict, bar)
        pending = [candidate for candidate in candidates if candidate.id not in done]
        if not pending:
            return True
        if self._out_of_time():
            return False
        for _, verdict in self._workers.evaluate(pending):
            known.append(verdict)
            self._computed += 1
            self._count_in(verdict, bar)
            bar.note(self._remark([v.fitness for v in known if v.fitness is not None]))
            if len(known) < len(candidates) and self._out_of_time():
                return False
        return True

    def _count_in(self, verdict: Verdict, bar: progress.Bar) -> None:
        self._count += 1
        if verdict.fitness is None:
            self._errors.append(verdict.error)
        elif self._best is None or verdict.fitness > self._best:
            self._best = verdict.fitness
        bar.advance()

    def _out_of_time(self) -> bool:
        return self._budget.minutes is not None and self.seconds >= 60 * self._budget.minutes

    def _remark(self, generation: list[float]) -> str:
        rate = self._computed / max(self._clock() - self._began, 1e-9)
        best = f"best {self._best:.4f}" if self._best is not None else "all failed so far"
        mean = f" · mean {sum(generation) / len(generation):.4f}" if generation else ""
        return f"{best}{mean} · {rate:.2g}/s"

    def _stop_when_most_fail(self) -> None:
        if len(self._errors) > MAX_FAILED * self._count:
            raise InputError(
                f"{len(self._errors)} of {self._count} candidates failed, the last with: {self._errors[-1]}",
                where=self._store.path,
                fix="Correct the study, then start anew with --overwrite",
            )

    def _finite(self, fitness: list[float | None]) -> list[float]:
        # A failed candidate ranks behind every other of its generation; strategies only ever see numbers.
        known = [value for value in fitness if value is not None]
        worst = min(known, default=0.0) - 1.0
        return [worst if value is None else value for value in fitness]

    def write_history(self) -> None:
        """Writes the run so far as JSON lines, in the order of generation and index."""
        lines = [json.dumps(line, allow_nan=False) for line in history_lines(self._store, self._name)]
        staging.write_text(self._history, "".join(line + "\n" for line in lines))
        self._written = self._clock()


def history_lines(store: StudyStore, strategy: str) -> list[dict[str, Any]]:
    """The finished candidates as plain data, one dictionary each."""
    return [
        {
            "strategy": strategy,
            "id": candidate.id,
            "generation": candidate.generation,
            "index": candidate.index,
            "genome": candidate.genome,
            "fitness": verdict.fitness,
            "valid": dict(verdict.valid),
            "seconds": round(verdict.seconds, 4),
            "cached": verdict.cached,
            "fingerprint": verdict.fingerprint,
            **({"error": verdict.error} if verdict.error else {}),
        }
        for candidate, verdict in store.finished()
    ]
