"""The loop of a study: ask, make durable, evaluate, tell; the same code begins a run and goes on with one.

A run that was killed is replayed generation by generation from the store: the strategy must propose what is on
record, and is told what is on record. Knows strategies, the store and workers; knows nothing of models.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genepool import progress, staging
from genepool.errors import InputError
from genepool.evolution.asynchronous import AskingAhead
from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.diversity import Diversity
from genepool.evolution.generation import Generations, OutOfTime, Savings
from genepool.evolution.records import genes_with_values
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies.base import Birth, Breeder, Evidence, Strategy
from genepool.evolution.study import Stop

if TYPE_CHECKING:
    import numpy as np

    from genepool.evolution.study import SearchBudget
    from genepool.evolution.workers import Workers

#: The run stops when more than this share of the candidates failed, counted once a whole generation is in.
MAX_FAILED = 0.5
_HISTORY_SECONDS = 2.0


class Decoder(Protocol):
    """Turns what a strategy asks for, a point of shape (d,) or a birth, into a genome; representations are ones."""

    def genome(self, one: Any, /) -> dict[str, Any]:
        """The genome: merge parameters by name, or a birth as plain data."""


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
        strategy: freshly built, nothing asked or told yet.
        strategy_name: what the study calls it; part of the candidates' ids and of the history.
        decoder: turns points and births into genomes.
        workers: who evaluates.
        budget: when to end.
        seed: the seed candidates are merged with.
        history: the file that shows the run as JSON lines, written whole at most every two seconds.
        finalists: how many of the best are judged again on every validation example.
        stop: when to end before the budget.
        savings: what may be spared.
        importance: shape (examples,): what each example counts for, as `Evidence.importance`.
        kept: told which children of a breeder may be needed again, after every generation, and whether others are
            being written meanwhile.
        steady: ask for new candidates while others are being evaluated. No worker waits then, and the result depends
            on who is through first; on record is in which order, so a run that goes on is still the same run.
        clock: seconds; a test may bring its own.

    Raises:
        ValueError: the strategy was asked or told before.

    Attributes:
        out_of_time: whether minutes ended the search rather than evaluations.
        ended: why the search ended before its budget was spent; empty when it did not.
        notices: what people should know of how it went, as sentences.
    """

    def __init__(
        self,
        store: StudyStore,
        strategy: Strategy[Any] | Breeder[Any],
        strategy_name: str,
        decoder: Decoder,
        workers: Workers,
        *,
        budget: SearchBudget,
        seed: int,
        history: Path,
        finalists: int = 0,
        stop: Stop | None = None,
        savings: Savings | None = None,
        importance: np.ndarray | None = None,
        kept: Callable[[Collection[str], bool], None] = lambda _names, _writing: None,
        steady: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if strategy.waiting or strategy.generation:
            raise ValueError("the strategy was asked or told before: expected one freshly built")
        self._store, self._strategy, self._name = store, strategy, strategy_name
        self._decoder, self._workers, self._budget, self._seed = decoder, workers, budget, seed
        self._history, self._finalists, self._clock = history, finalists, clock
        self._stop, self._kept, self._steady = stop or Stop(), kept, steady
        self._savings, self._importance = savings or Savings(), importance
        self._diversity = Diversity()
        self._before: float = store.get("seconds", 0.0)
        self._began = clock()
        self._written = -_HISTORY_SECONDS
        self._computed = 0
        self._best: float | None = None
        self._count = 0
        self._leaders: list[tuple[float, str]] = []
        self._errors: list[str] = []
        self._generation_fitness: list[float] = []
        self._tasks: tuple[str, ...] = ()
        self._examples = 0
        self._counts_unchanged = False
        self.out_of_time = False
        self.ended = ""
        self.notices: list[str] = []

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
                generations = self._stream(bar) if self._steady else self._generations(bar)
            return self._final_round(generations)
        finally:
            self._store.set("seconds", self.seconds)
            self._workers.close()
            self.write_history()

    def _generations(self, bar: progress.Bar) -> int:
        """Asks, evaluates and tells until the budget is spent; returns how many generations were told."""
        rounds = Generations(
            self._store,
            self._workers,
            self._savings,
            lambda _candidate, verdict, computed: self._count_in(verdict, computed, bar),
            self._check_time,
        )
        total = self._budget.evaluations
        count = generation = stalled = 0
        while total is None or count < total:
            asked = self._strategy.ask()
            size = len(asked) if total is None else min(len(asked), total - count)
            candidates = self._on_record(asked[:size], generation)
            self._generation_fitness = []
            best = self._lead()
            try:
                rounds.evaluate(candidates)
            except OutOfTime:
                self.out_of_time = True
                break
            count += size
            if size < len(asked):
                break
            self._stop_when_most_fail()
            self._tell(asked, generation, [verdict for _, verdict in self._store.finished(generation)])
            if self._clock() - self._written >= _HISTORY_SECONDS:
                self.write_history()
            generation += 1
            stalled = 0 if self._lead() != best else stalled + 1
            if self._enough(stalled):
                break
        return generation

    def _on_record(self, chosen: Any, generation: int, after: int | None = None) -> list[Candidate]:
        identities = [_identity(one) for one in chosen]
        genomes = [self._decoder.genome(one) for one in chosen]
        return self._store.asked(self._name, generation, identities, genomes, self._seed, after)

    def _stream(self, bar: progress.Bar) -> int:
        """As `_generations`, but asks ahead whenever a worker would have nothing to do."""
        stalled, best = 0, self._lead()

        def tell(generation: int, asked: Any) -> bool:
            nonlocal stalled, best
            self._stop_when_most_fail()
            self._tell(asked, generation, [verdict for _, verdict in self._store.finished(generation)])
            if self._clock() - self._written >= _HISTORY_SECONDS:
                self.write_history()
            stalled, best = 0 if self._lead() != best else stalled + 1, self._lead()
            return self._enough(stalled)

        steady = AskingAhead(
            self._strategy,
            self._store,
            self._budget.evaluations,
            self._on_record,
            lambda verdict: self._count_in(verdict, False, bar),
            tell,
        )
        try:
            for candidate, verdict in self._workers.stream(steady.feed):
                self._count_in(verdict, True, bar)
                steady.finished(candidate)
                self._check_time()
        except OutOfTime:
            self.out_of_time = True
        return steady.told

    def _lead(self) -> float | None:
        """The best fitness the strategy was told of."""
        return self._leaders[0][0] if self._leaders else None

    def _tell(self, asked: Any, generation: int, verdicts: Sequence[Verdict]) -> None:
        import numpy as np

        fitness = np.array(self._finite([verdict.fitness for verdict in verdicts]))
        evidence = self._evidence(verdicts)
        if warning := self._diversity.warning(generation, verdicts):
            self.notices.append(warning)
            progress.message(warning)
        self._store.told(generation, fitness, self.seconds, self._diversity.now)
        self._strategy.tell(asked, fitness, evidence, generation=generation)
        # What a race estimated leads nothing: it left because others were ahead.
        ranked = [
            (v.fitness, f"{generation}.{i}") for i, v in enumerate(verdicts) if v.fitness is not None and not v.note
        ]
        self._leaders = heapq.nlargest(self._finalists or 1, [*self._leaders, *ranked])
        # While a run is replayed the latest children are not born yet, and must not be taken for dead.
        if isinstance(self._strategy, Breeder) and self._computed:
            wanted = {*self._strategy.living(), *(name for _, name in self._leaders)}
            for number, births in self._strategy.waiting.items():
                wanted |= {f"{number}.{i}" for i in range(len(births))}
                wanted |= {parent for birth in births for parent in birth.parents}
            self._kept(wanted, bool(self._strategy.waiting))

    def _evidence(self, verdicts: Sequence[Verdict]) -> Evidence | None:
        """Means and scores of a generation; zero for what failed. None while nothing ever succeeded."""
        import numpy as np

        self._tasks = self._tasks or next((tuple(v.valid) for v in verdicts if v.fitness is not None), ())
        if not self._tasks:
            return None
        means = np.zeros((len(verdicts), len(self._tasks)))
        rows = [verdict.example_scores() for verdict in verdicts]
        # A generation in which all failed looks like the others all the same.
        self._examples = max(self._examples, *map(len, rows))
        self._counts_unchanged |= any(verdict.unchanged is not None for verdict in verdicts)
        scores = np.zeros((len(verdicts), self._examples))
        for i, verdict in enumerate(verdicts):
            if verdict.fitness is not None:
                means[i] = [verdict.valid[task] for task in self._tasks]
                scores[i, : len(rows[i])] = rows[i]
        failed = np.array([verdict.fitness is None for verdict in verdicts])
        return Evidence(
            self._tasks,
            means,
            scores,
            np.array([verdict.unchanged or 0.0 for verdict in verdicts]) if self._counts_unchanged else None,
            failed if failed.any() else None,
            self._importance,
        )

    def _enough(self, stalled: int) -> bool:
        stop = self._stop
        lead = self._lead()
        if stop.target is not None and lead is not None and lead >= stop.target:
            self.ended = f"fitness {lead:.4f} reached the target of {stop.target:g}"
        elif stop.stall is not None and stalled >= stop.stall:
            self.ended = f"no better candidate in {stalled} generations"
        if self.ended:
            progress.message(f"the search ends before its budget: {self.ended}")
        return bool(self.ended)

    def _check_time(self) -> None:
        if self._budget.minutes is not None and self.seconds >= 60 * self._budget.minutes:
            raise OutOfTime

    def _final_round(self, generations: int) -> list[Finalist]:
        """The best of the search and the strategy's own guess, judged on every validation example."""
        # Estimates of a race and scores shared by twins crown nobody: someone with scores of their own is as good.
        ranked = [(c, v) for c, v in self._store.finished() if v.fitness is not None and not v.note]
        ranked.sort(key=lambda pair: -(pair[1].fitness or 0.0))
        if not ranked:
            raise InputError(
                "the budget ended before a candidate succeeded",
                where=self._store.path,
                fix="Allow more evaluations or minutes",
            )
        if not self._finalists:
            return [Finalist(ranked[0][0], ranked[0][1], ranked[0][1])]
        distinct: dict[str, tuple[Candidate, Verdict | None]] = {}
        for candidate, verdict in ranked:
            distinct.setdefault(json.dumps(candidate.genome, sort_keys=True), (candidate, verdict))
        chosen = list(distinct.values())[: self._finalists]
        guessed = self._strategy.guess()
        if guessed is not None:
            guess = self._store.guess(self._name, generations, self._decoder.genome(guessed), self._seed)
            chosen.append((guess, None))
        finals = [replace(candidate, final=True) for candidate, _ in chosen]
        pending = [candidate for candidate in finals if self._store.result(candidate) is None]
        with progress.bar("judging the best again", len(finals), "candidates") as bar:
            bar.advance(len(finals) - len(pending))
            for _ in self._workers.evaluate(pending):
                bar.advance()
        judged = [
            (candidate, seen, self._store.result(candidate))
            for candidate, (_, seen) in zip(finals, chosen, strict=True)
        ]
        good = [Finalist(c, seen, verdict) for c, seen, verdict in judged if verdict and verdict.fitness is not None]
        if not good:
            raise InputError("the final evaluation of every finalist failed", where=self._store.path, fix="Run again")
        # The sort is stable: of equals, the one that did best in the search comes first.
        return sorted(good, key=lambda finalist: -(finalist.judged.fitness or 0.0))

    def _count_in(self, verdict: Verdict, computed: bool, bar: progress.Bar) -> None:
        self._count += 1
        self._computed += computed
        if verdict.fitness is None:
            self._errors.append(verdict.error)
        else:
            self._generation_fitness.append(verdict.fitness)
            # What a race estimated is no best: it left because others were ahead.
            if not verdict.note and (self._best is None or verdict.fitness > self._best):
                self._best = verdict.fitness
        bar.advance()
        bar.note(self._remark())

    def _remark(self) -> str:
        rate = self._computed / max(self._clock() - self._began, 1e-9)
        parts = [f"best {self._best:.4f}" if self._best is not None else "all failed so far"]
        seen = self._generation_fitness
        if seen:
            mean = sum(seen) / len(seen)
            spread = (sum((value - mean) ** 2 for value in seen) / len(seen)) ** 0.5
            parts.append(f"mean {mean:.4f} ± {spread:.4f}")
        return " · ".join([*parts, f"{rate:.2g}/s"])

    def _stop_when_most_fail(self) -> None:
        if len(self._errors) > MAX_FAILED * self._count:
            last = self._errors[-1].rstrip(".")
            raise InputError(
                f"{len(self._errors)} of {self._count} candidates failed, the last with: {last}",
                where=self._store.path,
                fix="Correct the study, then start again with --overwrite",
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
    finished, genes = store.finished(), store.get("genes", [])
    names = {candidate.name: candidate.id for candidate, _ in finished}
    return [
        {
            "strategy": strategy,
            "id": candidate.id,
            "generation": candidate.generation,
            "index": candidate.index,
            "genome": candidate.genome,
            **genes_with_values(genes, candidate.genome),
            "fitness": verdict.fitness,
            "valid": dict(verdict.valid),
            "seconds": round(verdict.seconds, 4),
            "cached": verdict.cached,
            "fingerprint": verdict.fingerprint,
            **_parents(candidate, names),
            **({"error": verdict.error} if verdict.error else {}),
            **({"note": verdict.note} if verdict.note else {}),
            **({"unchanged": verdict.unchanged} if verdict.unchanged is not None else {}),
        }
        for candidate, verdict in finished
    ]


def _parents(candidate: Candidate, ids: dict[str, str]) -> dict[str, Any]:
    """Ids of the candidates a child was bred from; its founders are named in its genome."""
    parents = candidate.genome.get("parents")
    if not isinstance(parents, list):
        return {}
    return {"parents": [ids[parent] for parent in parents if parent in ids]}


def _identity(one: Any) -> bytes:
    """What makes a point or a birth the same again, to the last bit."""
    if isinstance(one, Birth):
        return one.to_bytes()
    data: bytes = one.astype("<f8").tobytes()
    return data
