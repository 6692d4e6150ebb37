"""Candidates whose evaluation failed: they are told to strategies, and enter no population, archive or front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.loop import Search
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import make_breeder, make_strategy, strategies
from genepool.evolution.strategies.base import AskTell, Birth, Breeder, Evidence
from genepool.evolution.study import SearchBudget
from genepool.evolution.workers import InProcess

TASKS = ("add", "sort")
OPTIONS: dict[str, dict[str, Any]] = {
    "weight_es": {"population": 6},
    "nsga2": {"population": 6},
    "map_elites": {"batch": 3, "behaviours": ["add", "unchanged"]},
}


def made(name: str, seed: int) -> AskTell[Any]:
    if strategies()[name].proposals == "births":
        return make_breeder(name, ("ann", "bob", "cy"), TASKS, seed=seed, options=OPTIONS.get(name, {}))
    return make_strategy(name, np.full(3, 0.5), seed=seed, options=OPTIONS.get(name, {}))


def told(strategy: AskTell[Any], dice: np.random.Generator, share: float) -> set[str]:
    """Tells a generation in which about `share` failed, as the loop does; returns the names of those."""
    asked = strategy.ask()
    failed = dice.random(len(asked)) < (share if strategy.generation else min(share, 0.4))
    if not strategy.generation:
        failed[0] = False
    scores = np.where(failed[:, None], 0.0, (dice.random((len(asked), 8)) < 0.5).astype(float))
    means = np.stack([scores[:, :4].mean(1), scores[:, 4:].mean(1)], axis=1)
    fitness = means.mean(1)
    fitness = np.where(failed, min(fitness[~failed], default=0.0) - 1, fitness)
    number = strategy.generation
    unchanged = np.where(failed, 0.0, 0.5)
    strategy.tell(asked, fitness, Evidence(TASKS, means, scores, unchanged, failed if failed.any() else None))
    return {f"{number}.{i}" for i in np.flatnonzero(failed)}


@pytest.mark.parametrize("name", sorted(strategies()))
@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.2, 0.6, 1.0]))
@settings(max_examples=12, deadline=None)
def test_who_failed_is_nobodys_parent_and_in_no_collection(name: str, seed: int, share: float) -> None:
    strategy, dice = made(name, seed), np.random.default_rng(seed)
    failed: set[str] = set()
    for generation in range(6):
        failed |= told(strategy, dice, share if generation % 2 else 0.2)
        assert not failed & {row["name"] for row in strategy.collection()}
        # The centre of an evolution strategy is where the steps lead, whatever came of it.
        if isinstance(strategy, Breeder) and name != "weight_es":
            assert not failed & strategy.living()
            asked: Sequence[Birth] = strategy.ask()
            assert not failed & {parent for birth in asked for parent in birth.parents}


def test_a_particle_that_did_not_arrive_stays_where_it_was() -> None:
    swarm = make_breeder("genome_plus", ("ann", "bob"), TASKS, seed=0, options={"population": 3})
    swarm.tell(swarm.ask(), np.array([0.2, 0.4, 0.6]))
    moves, nothing = swarm.ask(), np.zeros((3, 2))
    failed = np.array([False, True, False])
    swarm.tell(moves, np.array([0.3, -0.7, 0.7]), Evidence(TASKS, nothing, nothing, failed=failed))
    assert [row["name"] for row in swarm.collection()] == ["1.0", "0.1", "1.2"]
    assert [row["scores"]["fitness"] for row in swarm.collection()] == [0.3, 0.4, 0.7]


def test_a_pair_of_which_one_failed_moves_nothing() -> None:
    breeder = make_breeder("weight_es", ("ann",), TASKS, seed=0, options={"population": 4, "step": 0.1})
    nothing = np.zeros((5, 2))
    failed = np.array([False, False, True, False, False])
    told = Evidence(TASKS, nothing, nothing, failed=failed)
    breeder.tell(breeder.ask(), np.array([0.5, 0.9, -1.0, 0.6, 0.2]), told)
    step = breeder.ask()[0]
    # Of the other pair, 0.6 and 0.2: z-scores 1 and -1, so 0.1 * 2 / 4.
    assert step.parameters["steps"] == pytest.approx([0.0, 0.05])


@pytest.mark.parametrize(("name", "unchanged"), [("m2n2", None), ("cycleqd", None), ("map_elites", 0.5)])
def test_a_generation_of_which_nobody_is_left_is_one_like_others(
    tmp_path: Path, name: str, unchanged: float | None
) -> None:
    """A single child a generation is the default of M2N2 and CycleQD: any failure is a whole generation."""

    class Plain:
        def genome(self, one: Any, /) -> dict[str, Any]:
            return one.to_genome() if isinstance(one, Birth) else {f"g{i}": float(v) for i, v in enumerate(one)}

    def evaluate(candidate: Candidate) -> Verdict:
        if candidate.generation in (2, 3, 5):
            raise RuntimeError("no answer")
        dice = np.random.default_rng([candidate.generation, candidate.index])
        scores = (dice.random(8) < 0.6).astype("<f4")
        valid = {"add": float(scores[:4].mean()), "sort": float(scores[4:].mean())}
        return Verdict(float(scores.mean()), valid, scores.tobytes(), unchanged=unchanged)

    def sitting(budget: int) -> Search:
        strategy = made(name, 5)
        with StudyStore(tmp_path / "study.sqlite") as store:
            store.begin({"strategy": name}, {})
            search = Search(
                store,
                strategy,  # type: ignore[arg-type]
                name,
                Plain(),
                InProcess(lambda: evaluate, store),
                budget=SearchBudget(evaluations=budget),
                seed=0,
                history=tmp_path / "history.jsonl",
            )
            search.run()
        assert strategy.collection()
        assert not {"2.0", "3.0", "5.0"} & {row["name"] for row in strategy.collection()}
        return search

    sitting(16)
    # And when it goes on from the record.
    sitting(24)
