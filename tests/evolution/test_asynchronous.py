"""Asking ahead: no worker waits, everything is told once, and a run that goes on repeats the order on record."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import evolve_fakes as fakes
import evolve_world
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.loop import Search
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import make_breeder, make_strategy, strategies
from genepool.evolution.study import SearchBudget, Study
from genepool.evolution.workers import ProcessPool, Workers

STEADY = [name for name, entry in strategies().items() if entry.build.steady and entry.proposals == "points"]
# One child a time, where that is an option.
SINGLE: dict[str, dict[str, int]] = {
    "map_elites": {"batch": 1},
    "random_search": {"population": 1},
    "lcsc": {"children": 1},
}


class Disordered(Workers):
    """Keeps `count` candidates in flight and finishes them in an order of its own; dies after `lives` of them."""

    def __init__(self, store: StudyStore, count: int, seed: int, lives: int = 10**9) -> None:
        self.store, self.count, self.random, self.lives = store, count, random.Random(seed), lives
        self.flight: list[Candidate] = []
        self.most = 0
        self.begun: Counter[str] = Counter()

    def stream(self, feed: Callable[[], Candidate | None]) -> Iterator[tuple[Candidate, Verdict]]:
        while True:
            while len(self.flight) < self.count and (fed := feed()) is not None:
                self.flight.append(fed)
                self.begun[fed.id] += 1
            if not self.flight:
                return
            self.most = max(self.most, len(self.flight))
            if not self.lives:
                raise KeyboardInterrupt
            self.lives -= 1
            candidate = self.flight.pop(self.random.randrange(len(self.flight)))
            verdict = Verdict(fakes.fitness_of(candidate), {"t": fakes.fitness_of(candidate), "u": 0.5})
            self.store.finish(candidate, verdict)
            yield candidate, verdict

    def close(self) -> None:
        self.flight.clear()


def study_in(world: Path, **changes: Any) -> Path:
    path = world / "steady.yaml"
    data = {**evolve_world.STUDY, "steady": True, **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path


def sitting(folder: Path, strategy: str, budget: int, workers: Disordered, store: StudyStore) -> list[str]:
    store.begin({"strategy": strategy}, {})
    search = Search(
        store,
        make_strategy(strategy, np.full(3, 0.5), seed=1, options=SINGLE.get(strategy)),
        strategy,
        fakes.Line(3),
        workers,
        budget=SearchBudget(evaluations=budget),
        seed=0,
        history=folder / "history.jsonl",
        steady=True,
    )
    search.run()
    return [line["id"] for line in fakes.history(folder)]


@pytest.mark.parametrize("strategy", STEADY)
@pytest.mark.parametrize("count", [1, 3])
def test_interruptions_repeat_nothing_and_the_order_on_record_stands(tmp_path: Path, strategy: str, count: int) -> None:
    begun: Counter[str] = Counter()
    order: list[int] = []
    with StudyStore(tmp_path / "study.sqlite") as store:
        for sitting_number in range(40):
            workers = Disordered(store, count, sitting_number, lives=7)
            done = {candidate.id for candidate, _ in store.finished()}
            try:
                ids = sitting(tmp_path, strategy, 60, workers, store)
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                begun += workers.begun
                assert not done & set(workers.begun)
                told = store.told_order()
                assert told[: len(order)] == order
                order = told
        assert len(ids) == len(set(ids)) == 60
        # Nothing finished is begun again; what was in flight when it died is.
        assert sum(begun.values()) <= 60 + count * 40
        assert sorted(order) == order or count > 1


def test_workers_have_something_to_do_until_the_budget_is_spent(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "study.sqlite") as store:
        workers = Disordered(store, 5, 0)
        sitting(tmp_path, "map_elites", 60, workers, store)
        assert workers.most == 5
        asked, told = store.asked_after(), store.told_order()
        assert any(after < number for number, after in enumerate(asked))
        assert told != sorted(told)


def test_one_worker_does_what_a_generational_run_of_single_children_does(tmp_path: Path) -> None:
    found = []
    for name, steady in (("steady", True), ("plain", False)):
        folder = tmp_path / name
        folder.mkdir()
        with StudyStore(folder / "study.sqlite") as store:
            store.begin({}, {})
            search = Search(
                store,
                make_strategy("map_elites", np.full(3, 0.5), seed=1, options={"batch": 1}),
                "map_elites",
                fakes.Line(3),
                Disordered(store, 1, 0),
                budget=SearchBudget(evaluations=30),
                seed=0,
                history=folder / "history.jsonl",
                steady=steady,
            )
            search.run()
        found.append([line["genome"] for line in fakes.history(folder)])
    assert found[0] == found[1]


@pytest.mark.slow
def test_processes_take_what_is_asked_ahead(tmp_path: Path) -> None:
    (tmp_path / "outcomes").mkdir()
    with StudyStore(tmp_path / "study.sqlite") as store:
        store.begin({}, {})
        search = Search(
            store,
            make_strategy("random_search", np.full(3, 0.5), seed=1, options={"population": 1}),
            "random_search",
            fakes.Line(3),
            ProcessPool(partial(fakes.logged, tmp_path, 0.0), store.path, 2),
            budget=SearchBudget(evaluations=24),
            seed=0,
            history=tmp_path / "history.jsonl",
            steady=True,
        )
        search.run()
    begun = [line for line in (tmp_path / "log.txt").read_text().splitlines() if line.startswith("begin")]
    assert len(begun) == len(set(begun)) == 24


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.sampled_from(["m2n2", "cycleqd"]))
def test_breeders_are_told_in_any_order_under_their_own_numbers(order: list[int], name: str) -> None:
    from genepool.evolution.strategies.base import Evidence

    breeder = make_breeder(name, ["a", "b", "c"], ["t", "u"], seed=0)

    def evidence(count: int) -> Evidence:
        return Evidence(("t", "u"), np.full((count, 2), 0.5), np.full((count, 8), 0.5))

    with pytest.raises(ValueError, match="cannot be asked again"):
        breeder.ask()
        breeder.ask(ahead=True)
    births = breeder.ask()
    breeder.tell(births, np.full(3, 0.5), evidence(3))
    numbers = []
    for pick in order:
        while len(breeder.waiting) < 3:
            breeder.ask(ahead=True)
        number = sorted(breeder.waiting)[pick % 3]
        births = breeder.waiting[number]
        breeder.tell(births, np.full(len(births), 0.5), evidence(len(births)), generation=number)
        numbers.append(number)
    assert len(set(numbers)) == len(numbers)
    born = {name for name in breeder.living() if not name.startswith("0.")}
    assert born <= {f"{number}.0" for number in numbers}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random_search", "m2n2"])
def test_the_commands_plan_and_evolve_take_a_steady_study(
    world: Path, tmp_path: Path, cli: Callable[..., Any], strategy: str
) -> None:
    varied = {} if strategy == "random_search" else {"method": None, "parameters": None, "search": None}
    options = {"population": 2} if strategy == "random_search" else {}
    study = study_in(
        world, strategy={"name": strategy, "options": options}, budget={"evaluations": 5}, finalists=0, **varied
    )
    planned = cli("plan", study, "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["first_generation"] == 2
    answer = cli("evolve", study, "--out", tmp_path / "run", "--quiet", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["evaluations"] == 5
    assert len({line["id"] for line in fakes.history(tmp_path / "run")}) == 5


@pytest.mark.parametrize("command", ["plan", "evolve"])
def test_a_strategy_that_cannot_be_steady_is_one_error(
    world: Path, tmp_path: Path, cli: Callable[..., Any], command: str
) -> None:
    study = study_in(world, strategy="cma_es")
    answer = cli(command, study, *(() if command == "plan" else ("--out", tmp_path / "run")))
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "cma_es learns from whole generations and cannot be `steady`; cycleqd, " in answer.err
    assert not (tmp_path / "run").exists()


def test_a_search_takes_no_strategy_that_was_asked_before(tmp_path: Path) -> None:
    strategy = make_strategy("random_search", np.full(3, 0.5), seed=1)
    strategy.ask()
    with StudyStore(tmp_path / "study.sqlite") as store, pytest.raises(ValueError, match="asked or told before"):
        Search(
            store,
            strategy,
            "random_search",
            fakes.Line(3),
            Disordered(store, 1, 0),
            budget=SearchBudget(evaluations=9),
            seed=0,
            history=tmp_path / "history.jsonl",
        )


def test_what_needs_whole_generations_is_refused() -> None:
    common = {
        "base": "b",
        "skills": ["x", "y"],
        "method": "linear",
        "search": {"weight": {"low": 0, "high": 1}},
        "tasks": "t",
        "budget": {"evaluations": 9},
        "steady": True,
    }
    with pytest.raises(ValueError, match=r"cma_es learns from whole generations .* map_elites"):
        Study(**common)
    with pytest.raises(ValueError, match="Leave them out, or leave out `steady`"):
        Study(**common, strategy="map_elites", race="halving")
    assert Study(**common, strategy="map_elites").steady
    with pytest.raises(ValueError, match="cannot be asked again"):
        strategy = make_strategy("cma_es", np.full(3, 0.5), seed=1)
        strategy.ask()
        strategy.ask(ahead=True)
