"""Strategies that breed models: what holds for every one, and the published steps worked out by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.evolution.selection import proportional_probabilities, roulette, survivors
from genepool.evolution.strategies import make_breeder, make_strategy, strategies
from genepool.evolution.strategies.base import Birth, Breeder, Evidence
from genepool.evolution.strategies.cycleqd import Cycleqd
from genepool.evolution.strategies.m2n2 import M2n2

NAMES = sorted(name for name, entry in strategies().items() if issubclass(entry.build, Breeder))
FOUNDERS, TASKS = ("ann", "bob", "cy"), ("add", "sort")


def worth(births: Sequence[Birth], seed: int) -> tuple[np.ndarray, Evidence]:
    """Scores that depend on the birth alone."""
    rows = []
    for birth in births:
        dice = np.random.default_rng([seed, *birth.to_bytes()])
        rows.append((dice.random(12) < dice.random()).astype(float))
    scores = np.array(rows)
    means = np.stack([scores[:, :6].mean(1), scores[:, 6:].mean(1)], axis=1)
    return means.mean(1), Evidence(TASKS, means, scores)


def run(breeder: Breeder, generations: int, seed: int = 0) -> list[list[Birth]]:
    asked = []
    for _ in range(generations):
        births = breeder.ask()
        assert births == breeder.ask()
        breeder.tell(births, *worth(births, seed))
        asked.append(births)
    return asked


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**31), generations=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_parents_are_founders_or_living_or_born_just_before(name: str, seed: int, generations: int) -> None:
    breeder = make_breeder(name, FOUNDERS, TASKS, seed=seed)
    for generation in range(generations):
        known = set(FOUNDERS) | breeder.living()
        births = breeder.ask()
        assert births
        for i, birth in enumerate(births):
            # A child may have a sibling for a parent, but only an older one.
            assert set(birth.parents) <= known | {f"{generation}.{k}" for k in range(i)}
            assert Birth.from_genome(json.loads(json.dumps(birth.to_genome()))) == birth
            if "weights" in birth.parameters:
                assert len(birth.parameters["weights"]) == len(birth.parents)
                assert sum(birth.parameters["weights"]) == pytest.approx(1)
        breeder.tell(births, *worth(births, seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_breeder_is_a_function_of_its_seed_and_of_what_it_was_told(name: str) -> None:
    def bred(seed: int) -> list[list[Birth]]:
        return run(make_breeder(name, FOUNDERS, TASKS, seed=seed), 9)

    assert bred(1) == bred(1)
    assert bred(1) != bred(2)


@pytest.mark.parametrize("name", NAMES)
def test_part_of_a_generation_other_births_and_nan_change_nothing(name: str) -> None:
    breeder = make_breeder(name, FOUNDERS, TASKS, seed=3)
    with pytest.raises(ValueError, match="without ask"):
        breeder.tell([], np.array([]))
    births = breeder.ask()
    fitness, evidence = worth(births, 0)
    for wrong in (births[:-1], [*births, births[0]], list(reversed(births)) if births[0] != births[-1] else []):
        with pytest.raises(ValueError, match="exactly the births"):
            breeder.tell(wrong, fitness[: len(wrong)], evidence)
    with pytest.raises(ValueError, match="finite"):
        breeder.tell(births, np.full(len(births), np.nan), evidence)
    with pytest.raises(ValueError, match="rows"):
        breeder.tell(births, fitness, Evidence(TASKS, evidence.means[:-1], evidence.scores))
    assert breeder.ask() == births
    breeder.tell(births, fitness, evidence)
    assert breeder.generation == 1


def test_points_and_models_are_told_apart() -> None:
    with pytest.raises(InputError, match="breeds models"):
        make_strategy("genome", np.full(2, 0.5), seed=0)
    with pytest.raises(InputError, match="breeds no models"):
        make_breeder("cma_es", FOUNDERS, TASKS, seed=0)
    with pytest.raises(InputError, match="founders"):
        make_breeder("genome", ["ann"], TASKS, seed=0)
    with pytest.raises(InputError, match="founders"):
        make_breeder("genome", ["ann", "ann"], TASKS, seed=0)


# ---------------------------------------------------------------------- selection


def test_chances_are_in_proportion_and_never_negative() -> None:
    assert proportional_probabilities([1, 3]).tolist() == [0.25, 0.75]
    assert proportional_probabilities([-1, 1]).tolist() == [0, 1]
    assert proportional_probabilities([0, 0]).tolist() == [0.5, 0.5]


@given(st.lists(st.floats(0, 1, width=16), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 5))
def test_the_best_survive_and_nobody_twice(fitness: list[float], count: int, tournament: int) -> None:
    kept = survivors(np.random.default_rng(0), fitness, count, elites=1, tournament=tournament)
    assert len(kept) == len(set(kept)) == min(count, len(fitness))
    assert fitness[kept[0]] == max(fitness)
    assert [fitness[i] for i in kept] == sorted((fitness[i] for i in kept), reverse=True)


def test_roulette_draws_those_with_nothing_only_when_others_run_out() -> None:
    for seed in range(20):
        assert set(roulette(np.random.default_rng(seed), [0.0, 1.0, 0.5, 0.0], 2)) == {1, 2}
    assert sorted(roulette(np.random.default_rng(0), [0.0, 1.0], 2)) == [0, 1]


# ---------------------------------------------------------------------- GENOME


def test_genome_begins_with_pairs_at_random_shares_and_crosses_by_fitness() -> None:
    breeder = make_breeder("genome", FOUNDERS, TASKS, seed=0, options={"mutation": 0, "crossover": 1})
    first = breeder.ask()
    assert len(first) == 10
    # Three skills make three pairs: each comes once before any comes again, at shares u1 / (u1 + u2).
    assert len({tuple(b.parameters["weights"]) for b in first}) == 10
    for three in (first[:3], first[3:6], first[6:9]):
        assert {b.parents for b in three} == set(itertools.combinations(FOUNDERS, 2))
    assert all(b.op == "mix" and sum(b.parameters["weights"]) == pytest.approx(1) for b in first)
    assert len({b.to_bytes() for b in first}) == 10
    fitness = np.arange(1, 11) / 10
    breeder.tell(first, fitness)
    children = breeder.ask()
    assert len(children) == 5
    for child in children:
        a, b = (fitness[int(parent.split(".")[1])] for parent in child.parents)
        assert child.parameters["weights"] == pytest.approx([a / (a + b), b / (a + b)])


def test_the_elites_are_a_tenth_of_the_population_rounded_down() -> None:
    """int(0.1 N), as in the authors' code: one of ten survives whatever the tournaments draw, and none of nine."""
    for population, first_stays in ((10, True), (9, False)):
        lost = 0
        for seed in range(30):
            options = {"population": population, "tournament": 1, "mutation": 1.0}
            breeder = make_breeder("genome", FOUNDERS, TASKS, seed=seed, options=options)
            breeder.tell(breeder.ask(), np.linspace(1, 0.1, population))
            births = breeder.ask()
            breeder.tell(births, np.full(len(births), 0.05))
            lost += "0.0" not in breeder.living()
        assert (lost == 0) == first_stays


def test_genome_plus_draws_its_pulls_once_if_it_is_to() -> None:
    """The random factors of the first move of every particle differ, but for `one_draw`, as in the authors' code."""
    for one_draw, kinds in ((True, 1), (False, 4)):
        options = {"population": 4, "inertia": 0, "one_draw": one_draw}
        breeder = make_breeder("genome_plus", FOUNDERS, TASKS, seed=1, options=options)
        breeder.tell(breeder.ask(), np.array([0.1, 0.4, 0.2, 0.3]))
        moves = breeder.ask()
        # What the worst pushes with, relative to the best's pull, depends on the draw alone.
        ratios = {
            round(weights["0.0"] / weights["0.1"], 9)
            for move in moves
            for weights in [dict(zip(move.parents, move.parameters["weights"], strict=True))]
            if move.parents[0] not in ("0.0", "0.1")
        }
        assert len(ratios) == min(kinds, 2)


def test_genome_plus_shortens_its_step_before_every_individual_if_it_is_to() -> None:
    """The pull of the best on the third and the fourth particle: the same, or 0.95 of it, as in the authors' code."""
    for each, share in ((False, 1.0), (True, 0.95)):
        options = {"population": 4, "inertia": 0, "mutation": 0, "crossover": 0, "one_draw": True, "decay_each": each}
        breeder = make_breeder("genome_plus", FOUNDERS, TASKS, seed=1, options=options)
        breeder.tell(breeder.ask(), np.array([0.1, 0.4, 0.2, 0.3]))
        moves = breeder.ask()
        third, fourth = (dict(zip(m.parents, m.parameters["weights"], strict=True))["0.1"] for m in moves[2:])
        assert fourth / third == pytest.approx(share)
        breeder.tell(moves, np.array([0.1, 0.4, 0.2, 0.3]))
        # Four have moved, once: the first of the next generation takes the fifth step, or the second.
        assert breeder._step(0) == pytest.approx(0.5 * 0.95 ** (5 if each else 1))


def test_m2n2_without_attraction_may_draw_one_parent_twice() -> None:
    for attraction, twice in ((False, True), (True, False)):
        breeder = make_breeder("m2n2", FOUNDERS, ("t",), seed=0, options={"attraction": attraction, "children": 40})
        first = breeder.ask()
        scores = np.eye(3)[:, [0, 0, 1, 2]]
        breeder.tell(first, scores.mean(1), Evidence(("t",), scores.mean(1, keepdims=True), scores))
        assert any(child.parents[0] == child.parents[1] for child in breeder.ask()) == twice


def test_cycleqd_draws_by_the_bins_of_the_other_tasks() -> None:
    """Elites of equal quality: the odds are those of their bins, each axis stretched from 0.5 to 1.3."""
    breeder = make_breeder("cycleqd", FOUNDERS, ("b", "a", "c"), seed=0, options={"children": 2000})
    # The second and the third differ in score on b, but not in its bin: with the scores themselves they would differ.
    means = np.array([[0.01, 0.5, 0.5], [0.94, 0.5, 0.1], [0.99, 0.5, 0.9]])
    breeder.tell(breeder.ask(), means.mean(1), Evidence(("b", "a", "c"), means, means))
    # The first generation of children is of the second task.
    first = [child.parents[0] for child in breeder.ask()]
    # Bins of b: 0, 14, 14, so 0.5, 1.3, 1.3; of c: 7, 1, 13, so 0.9, 0.5, 1.3.
    odds = np.array([0.5 * 0.9, 1.3 * 0.5, 1.3 * 1.3])
    names = ["0.0", "0.1", "0.2"]
    assert [first.count(name) / 2000 for name in names] == pytest.approx((odds / odds.sum()).tolist(), abs=0.04)


def test_genome_plus_takes_the_published_step() -> None:
    options = {"population": 2, "best": 0, "worst": 0, "own": 0, "inertia": 0.2}
    breeder = make_breeder("genome_plus", ("ann", "bob"), TASKS, seed=0, options=options)
    births = breeder.ask()
    breeder.tell(births, np.array([0.2, 0.8]))
    # Inertia alone: half a step the way of the first velocity, which leads to some model of the first population.
    for i, move in enumerate(breeder.ask()):
        weights = dict(zip(move.parents, move.parameters["weights"], strict=True))
        other = f"0.{1 - i}"
        assert weights == ({f"0.{i}": 1.0} if other not in weights else pytest.approx({f"0.{i}": 0.5, other: 0.5}))


def test_genome_plus_moves_towards_the_best_and_away_from_the_worst() -> None:
    options = {"population": 3, "inertia": 0, "own": 0, "best": 0.2, "worst": 0.0}
    breeder = make_breeder("genome_plus", FOUNDERS, TASKS, seed=0, options=options)
    breeder.tell(breeder.ask(), np.array([0.1, 0.9, 0.5]))
    moves = breeder.ask()
    assert [dict(zip(m.parents, m.parameters["weights"], strict=True)) for m in moves] == [
        pytest.approx({"0.0": 0.5, "0.1": 0.5}),
        pytest.approx({"0.1": 1.0}),
        pytest.approx({"0.2": 0.5, "0.1": 0.5}),
    ]


# ---------------------------------------------------------------------- M2N2


def told(breeder: Breeder, scores: list[list[float]]) -> None:
    births = breeder.ask()
    table = np.array(scores)
    breeder.tell(births, table.mean(1), Evidence(("t",), table.mean(1, keepdims=True), table))


def test_models_that_solve_the_same_share_the_point() -> None:
    breeder = make_breeder("m2n2", FOUNDERS, ("t",), seed=0)
    assert isinstance(breeder, M2n2)
    told(breeder, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    # By hand: examples 1 and 2 are solved twice, example 3 once, example 4 by nobody.
    assert breeder._shares(np.array(breeder._scores)).sum(1).tolist() == [1.0, 1.0, 1.0]
    plain = make_breeder("m2n2", FOUNDERS, ("t",), seed=0, options={"alpha": 0})
    assert isinstance(plain, M2n2)
    told(plain, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    assert plain._shares(np.array(plain._scores)).sum(1).tolist() == [2.0, 2.0, 1.0]


def test_the_second_parent_solves_what_the_first_does_not() -> None:
    for seed in range(20):
        breeder = make_breeder("m2n2", FOUNDERS, ("t",), seed=seed)
        told(breeder, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
        parents = breeder.ask()[0].parents
        assert set(parents) in ({"0.0", "0.2"}, {"0.1", "0.2"})


def test_the_least_needed_leaves_a_full_archive() -> None:
    breeder = make_breeder("m2n2", ("ann", "bob"), ("t",), seed=0, options={"population": 2})
    told(breeder, [[1, 1, 1, 0], [0, 0, 0, 1]])
    # As good as the second by mean, but it solves only what the first solves too.
    told(breeder, [[1, 0, 0, 0]])
    assert breeder.living() == {"0.0", "0.1"}
    told(breeder, [[1, 1, 1, 0]])
    # A second copy of the first: each is worth 1.5, the one that alone solves the last example 1.
    assert breeder.living() == {"0.0", "2.0"}


def test_m2n2_from_scratch_mutates_and_otherwise_does_not() -> None:
    scratch = make_breeder("m2n2", (), ("t",), seed=0, options={"from_scratch": 2})
    assert [(b.op, b.parameters) for b in scratch.ask()] == [("random", {"sigma": 0.01})] * 2
    told(scratch, [[1, 0], [0, 1]])
    assert scratch.ask()[0].parameters["sigma"] == 0.01
    merged = make_breeder("m2n2", FOUNDERS, ("t",), seed=0)
    told(merged, [[1, 0], [0, 1], [0, 0]])
    assert "sigma" not in merged.ask()[0].parameters
    with pytest.raises(InputError, match="2 skills or more"):
        make_breeder("m2n2", ("ann",), ("t",), seed=0)


# ---------------------------------------------------------------------- an evolution strategy over weights


def test_weight_es_evaluates_the_centre_and_both_sides_of_it() -> None:
    breeder = make_breeder("weight_es", FOUNDERS, TASKS, seed=0, options={"population": 4, "sigma": 0.5, "step": 0.1})
    (first, *_), again = breeder.ask(), make_breeder("weight_es", ("ann",), TASKS, seed=0)
    assert first == Birth("mix", FOUNDERS, {"weights": [1 / 3] * 3})
    assert again.ask()[0] == Birth("copy", ("ann",))
    _, *sides = breeder.ask()
    assert [side.parameters["sigma"] for side in sides] == [0.5, -0.5, 0.5, -0.5]
    assert {(side.op, side.parents, side.parameters["rate"]) for side in sides} == {("mutate", ("0.0",), 1.0)}
    seeds = [side.seed for side in sides]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    breeder.tell(breeder.ask(), np.array([0.9, 1.0, 0.0, 0.5, 0.5]))
    assert breeder.living() == {"0.0"}
    # By hand: the four sides have mean 0.5 and spread sqrt(1/8); only the first pair tells a direction, and the centre,
    # whose noise is zero, has no say.
    step = breeder.ask()[0]
    assert (step.op, step.parents, step.parameters["seeds"]) == ("climb", ("0.0",), [seeds[0], seeds[2]])
    assert step.parameters["steps"] == pytest.approx([0.1 * 1.0 / (4 * 0.125**0.5), 0.0])
    breeder.tell(breeder.ask(), np.full(5, 0.5))
    assert breeder.ask()[0].parameters["steps"] == [0.0, 0.0]


def test_weight_es_climbs() -> None:
    """Weights of 12 numbers whose noise is drawn as the operators draw it; worth is nearness to a target."""
    options = {"population": 16, "sigma": 0.05, "step": 0.2}
    breeder = make_breeder("weight_es", ("ann",), TASKS, seed=4, options=options)
    models = {"ann": np.zeros(12)}

    def noise(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(12)

    worths = []
    for generation in range(60):
        births = breeder.ask()
        for i, birth in enumerate(births):
            parent, p = models[birth.parents[0]], birth.parameters
            match birth.op:
                case "copy":
                    child = parent
                case "mutate":
                    child = parent + p["sigma"] * noise(birth.seed)
                case "climb":
                    child = parent + sum(step * noise(seed) for step, seed in zip(p["steps"], p["seeds"], strict=True))
            models[f"{generation}.{i}"] = child
        fitness = np.array([-np.abs(models[f"{generation}.{i}"] - 1).mean() for i in range(len(births))])
        breeder.tell(births, fitness)
        worths.append(float(fitness[0]))
    assert worths[0] == -1
    assert worths[-1] > -0.2


# ---------------------------------------------------------------------- CycleQD


def test_cycleqd_turns_the_task_and_stretches_along_its_expert() -> None:
    breeder = make_breeder("cycleqd", FOUNDERS, TASKS, seed=0)
    assert isinstance(breeder, Cycleqd)
    births = breeder.ask()
    assert [b.op for b in births] == ["copy"] * 3
    means = np.array([[0.9, 0.1], [0.1, 0.8], [0.2, 0.2]])
    breeder.tell(births, means.mean(1), Evidence(TASKS, means, means))
    assert breeder.experts == {"add": "ann", "sort": "bob"}
    # 15 bins of the other task's score: 0.1 is in the second, 0.8 in the thirteenth, 0.2 in the fourth.
    assert [elite.cell for elite in breeder.archives["add"].elites()] == [1, 3, 12]
    experts: list[Any] = []
    for _ in range(4):
        births = breeder.ask()
        experts.append(births[0].parameters["expert"])
        breeder.tell(births, *worth(births, 1))
    assert experts == ["bob", "ann", "bob", "ann"]
    guess = breeder.guess()
    assert guess is not None
    assert sum(guess.parameters["weights"]) == pytest.approx(1)


def test_populations_that_are_slips_are_refused() -> None:
    for name, option in (("genome", "population"), ("m2n2", "from_scratch"), ("cycleqd", "children")):
        with pytest.raises(InputError, match=f"{option}.*less than or equal to 100000"):
            make_breeder(name, FOUNDERS, TASKS, seed=0, options={option: 10**9})
    for name, option in (("cma_es", "population"), ("map_elites", "batch"), ("map_elites", "cells")):
        with pytest.raises(InputError, match=f"{option}.*less than or equal to 100000"):
            make_strategy(name, np.full(2, 0.5), seed=0, options={option: 10**9})


def test_m2n2_counts_examples_as_the_study_weights_its_tasks() -> None:
    """One solves eight examples of a task that counts for nothing, the other two of the task that counts."""
    breeder = make_breeder("m2n2", ("ann", "bob"), TASKS, seed=0)
    births = breeder.ask()
    scores = np.zeros((2, 10))
    scores[0, :8], scores[1, 8:] = 1, 1
    means = np.array([[1.0, 0.0], [0.0, 1.0]])
    importance = np.repeat([0.0, 5.0], [8, 2])
    breeder.tell(births, np.array([0.0, 1.0]), Evidence(TASKS, means, scores, importance=importance))
    assert [row["scores"]["worth"] for row in breeder.collection()] == [0.0, 10.0]
    assert breeder.ask()[0].parents[0] == "0.1"
