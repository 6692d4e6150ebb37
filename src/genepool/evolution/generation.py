"""How one generation gets its verdicts: twins and hopeless ones are found, the rest race or are asked everything.

All decisions are functions of results on record, so a run that goes on decides as the undisturbed one did. Knows the
store and workers; knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.store import StudyStore
from genepool.evolution.surrogate import Surrogate

if TYPE_CHECKING:
    from genepool.evolution.study import Racing, Screening
    from genepool.evolution.workers import Workers

_FEWEST = 8


@dataclass(frozen=True)
class Savings:
    """How a generation is spared examples.

    Attributes:
        race: how its candidates race; None when they do not.
        probe: examples per task by which twins are found; 0 for none.
        examples: examples per task that score a candidate, of the smallest task.
        worth: fitness from the means of the tasks.
        weights: of the tasks in a race; 1 where none is given.
        screen: whether a surrogate spares the hopeless; None when it does not.
    """

    race: Racing | None = None
    probe: int = 0
    examples: int = 0
    worth: Callable[[Mapping[str, float]], float] = lambda means: sum(means.values()) / len(means)
    weights: Mapping[str, float] | None = None
    screen: Screening | None = None


class OutOfTime(Exception):
    """The budget of minutes ended in the middle of a generation."""


class Generations:
    """Evaluates generations.

    Args:
        store: where results are.
        workers: who evaluates.
        savings: what may be spared.
        seen: told every verdict of the search as it is known.
        check: raises `OutOfTime` when there is no time for another evaluation.
    """

    def __init__(
        self,
        store: StudyStore,
        workers: Workers,
        savings: Savings,
        seen: Callable[[Candidate, Verdict, bool], None],
        check: Callable[[], None],
    ) -> None:
        self._store, self._workers, self._savings = store, workers, savings
        self._seen, self._check = seen, check
        self._answers: dict[str, Candidate] = {}
        self._surrogate = Surrogate(savings.screen.trust) if savings.screen is not None else None

    def evaluate(self, candidates: Sequence[Candidate]) -> None:
        """Sees to it that every candidate has a verdict.

        Raises:
            OutOfTime: see `check`; what was finished is on record.
        """
        twins = self._twins(candidates)
        runners = [candidate for candidate in candidates if candidate.id not in twins]
        told = self._told(runners)
        hopeless = self._hopeless(runners, told)
        runners = [candidate for candidate in runners if candidate.id not in hopeless]
        if self._savings.race is not None and len(runners) > 1:
            self._race(runners, self._savings.race)
        else:
            self._ask(runners, report=True)
        for candidate in candidates:
            if candidate.id in twins:
                self._share(candidate, twins[candidate.id])
            elif candidate.id in hopeless:
                means, note = told[candidate.id], "told by the surrogate, not evaluated"
                self._settle(candidate, Verdict(self._savings.worth(means), means, cached=True, note=note))
        self._learn(runners, told)

    def _ask(self, candidates: Sequence[Candidate], *, report: bool = False) -> dict[str, Verdict]:
        """Verdicts by id, from the record where they are there."""
        found: dict[str, Verdict] = {}
        for candidate in candidates:
            known = self._store.result(candidate)
            if known is not None:
                found[candidate.id] = known
                if report:
                    self._seen(candidate, known, False)
        pending = [candidate for candidate in candidates if candidate.id not in found]
        if pending:
            self._check()
        for candidate, verdict in self._workers.evaluate(pending):
            found[candidate.id] = verdict
            if report:
                self._seen(candidate, verdict, True)
            if len(found) < len(candidates):
                self._check()
        return found

    def _settle(self, candidate: Candidate, verdict: Verdict) -> None:
        """Puts a verdict on record that nobody had to evaluate."""
        known = self._store.result(candidate)
        if known is None:
            self._store.finish(candidate, verdict)
        self._seen(candidate, known or verdict, known is None)

    # ------------------------------------------------------------------ twins

    def _twins(self, candidates: Sequence[Candidate]) -> dict[str, Candidate]:
        """Candidates that answer the probe as an earlier one did -> that one."""
        if not self._savings.probe:
            return {}
        answers = self._ask([replace(candidate, look=self._savings.probe) for candidate in candidates])
        twins = {}
        for candidate in candidates:
            behaviour = answers[candidate.id].behaviour
            if behaviour and behaviour in self._answers:
                twins[candidate.id] = self._answers[behaviour]
            elif behaviour:
                self._answers[behaviour] = candidate
        return twins

    def _share(self, candidate: Candidate, twin: Candidate) -> None:
        verdict = self._store.result(twin)
        assert verdict is not None
        note = f"answers the probe as {twin.name} does"
        spared = replace(verdict, seconds=0.0, cpu_seconds=0.0, examples=0, cached=True, fingerprint="", note=note)
        # It answers alike, and may be of another size all the same.
        own = self._look(candidate, self._savings.probe).unchanged
        self._settle(candidate, replace(spared, unchanged=own))

    # ------------------------------------------------------------------ screening

    def _told(self, candidates: Sequence[Candidate]) -> dict[str, dict[str, float]]:
        """What the surrogate says of each, by id."""
        if self._surrogate is None or not candidates:
            return {}
        told = self._surrogate.predict([candidate.genome for candidate in candidates])
        return {candidate.id: means for candidate, means in zip(candidates, told, strict=False)}

    def _hopeless(self, candidates: Sequence[Candidate], told: Mapping[str, Mapping[str, float]]) -> set[str]:
        """Ids of those that need no evaluation."""
        screen = self._savings.screen
        if screen is None or self._surrogate is None or not told or not self._surrogate.trusted:
            return set()
        best_first = sorted(told, key=lambda one: -self._savings.worth(told[one]))
        return set(best_first[max(1, math.ceil(screen.keep * len(candidates))) :])

    def _learn(self, evaluated: Sequence[Candidate], told: Mapping[str, Mapping[str, float]]) -> None:
        for candidate in evaluated if self._surrogate is not None else ():
            verdict = self._store.result(candidate)
            if verdict is not None and verdict.fitness is not None and not verdict.note:
                assert self._surrogate is not None
                self._surrogate.learn(candidate.genome, verdict.valid)
                if candidate.id in told:
                    self._surrogate.came_out(self._savings.worth(told[candidate.id]), verdict.fitness)

    # ------------------------------------------------------------------ racing

    def _race(self, candidates: Sequence[Candidate], race: Racing) -> None:
        running = list(candidates)
        left: list[tuple[Candidate, int]] = []
        test = _Test(len(running), self._savings.examples, race.risk) if race.kind == "test" else None
        for size in looks(self._savings.examples, race.first):
            if len(running) == 1:
                break
            seen = self._ask([replace(candidate, look=size) for candidate in running])
            means = [self._mean(seen[candidate.id]) for candidate in running]
            if test is not None:
                gone = test.tell([self._rows(seen[candidate.id], size) for candidate in running])
                staying = [i for i in range(len(running)) if i not in gone]
            else:
                order = sorted(range(len(running)), key=lambda i: (-means[i], i))
                staying = sorted(order[: max(1, math.ceil(race.keep * len(running)))])
            left += [(candidate, size) for i, candidate in enumerate(running) if i not in staying]
            running = [running[i] for i in staying]
        finished = self._ask(running, report=True)
        for candidate, size in left:
            self._settle(candidate, self._estimate(candidate, size, running, finished))

    def _mean(self, verdict: Verdict) -> float:
        """Weighted mean of the tasks; a failure is behind everyone."""
        return -1.0 if verdict.fitness is None else self._savings.worth(verdict.valid)

    def _rows(self, verdict: Verdict, size: int) -> list[float]:
        """One weighted score a round, which is one example of every task."""
        import numpy as np

        if verdict.fitness is None:
            return [0.0] * size
        weights = np.array([(self._savings.weights or {}).get(task, 1.0) for task in verdict.valid])
        table = verdict.example_scores().reshape(len(weights), size)
        rows: list[float] = (weights @ table / weights.sum()).tolist()
        return rows

    def _estimate(
        self, candidate: Candidate, size: int, stayed: Sequence[Candidate], finished: Mapping[str, Verdict]
    ) -> Verdict:
        """The estimated worth of a candidate that left the race.

        It is as far below the worth of those that stayed, on all examples, as it was behind them on the examples that
        all of them answered.
        """
        seen = self._store.result(replace(candidate, look=size))
        assert seen is not None
        if seen.fitness is None:
            return Verdict(None, error=seen.error)
        others = [one for one in stayed if finished[one.id].fitness is not None]
        valid = dict(seen.valid)
        for task in valid if others else ():
            whole = sum(finished[one.id].valid[task] for one in others) / len(others)
            then = sum(self._look(one, size).valid[task] for one in others) / len(others)
            valid[task] = min(1.0, max(0.0, whole + valid[task] - then))
        note = f"left the race after {size} examples of each task"
        told = Verdict(self._savings.worth(valid), valid, cached=seen.cached, fingerprint=seen.fingerprint, note=note)
        return replace(told, unchanged=seen.unchanged)

    def _look(self, candidate: Candidate, size: int) -> Verdict:
        verdict = self._store.result(replace(candidate, look=size))
        assert verdict is not None
        return verdict


class _Test:
    """A race by tests: who is surely behind leaves (`genepool.measure.racing`)."""

    def __init__(self, count: int, examples: int, risk: float) -> None:
        from genepool.measure.racing import Race

        self._race = Race(count, examples, risk=risk)

    def tell(self, rows: Sequence[Sequence[float]]) -> set[int]:
        """Takes all scores so far of those running; places among them of who leaves."""
        import numpy as np

        numbers = list(self._race.running)
        gone = self._race.tell(np.array(rows)[:, self._race.seen :])
        return {numbers.index(number) for number in gone}


def looks(examples: int, first: int | None, where: str = "study") -> list[int]:
    """Sizes of the looks before the last: the first, and each twice the one before.

    Raises:
        InputError: the first look would be all there is.
    """
    size = first if first is not None else max(_FEWEST, examples // 8)
    if first is not None and first >= examples:
        raise InputError(
            f"must be below {examples}, the examples of each task that score a candidate, got {first}",
            where=f"{where}:race.first",
            fix="Make it smaller, or leave `race` out",
        )
    sizes = []
    while size < examples:
        sizes.append(size)
        size *= 2
    return sizes
