"""Population based training: who copies whom, at what cost, and what a turn trains with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_bred_runs import best, bred_study, history
from test_learning import founders_of, learner_of

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.breeding import Offspring
from genepool.evolution.strategies import make_breeder
from genepool.evolution.strategies.base import Birth, Breeder, Evidence

FOUNDERS, TASKS = ("ann", "bob"), ("add", "sort")


def pbt(seed: int = 0, **options: Any) -> Breeder[Any]:
    return make_breeder("pbt", FOUNDERS, TASKS, seed=seed, options=options)


def told(fitness: Sequence[float], failed: Sequence[int] = ()) -> Evidence:
    count = len(fitness)
    marks = np.isin(np.arange(count), failed)
    return Evidence(TASKS, np.zeros((count, 2)), np.zeros((count, 4)), failed=marks)


def rate(birth: Birth) -> float:
    return float(birth.parameters["learn"]["rate"])


def test_the_worst_fifth_copies_the_best_fifth_and_changes_its_settings() -> None:
    breeder = pbt(population=10, mix=True)
    first = breeder.ask()
    assert [birth.parents for birth in first] == [(FOUNDERS[place % 2],) for place in range(10)]
    fitness = [0.5, 0.9, 0.4, 0.1, 0.6, 0.3, 0.95, 0.45, 0.05, 0.55]
    breeder.tell(first, np.array(fitness), told(fitness))
    second = breeder.ask()
    for place, birth in enumerate(second):
        if place not in (3, 8):
            assert birth.parents == (f"0.{place}",)
            assert birth.parameters == first[place].parameters
            continue
        (parent,) = birth.parents
        assert parent in ("0.1", "0.6")
        source = first[int(parent[2:])]
        ratios = [rate(birth) / rate(source)]
        ratios += [
            a / b for a, b in zip(birth.parameters["learn"]["mix"], source.parameters["learn"]["mix"], strict=True)
        ]
        assert all(min(abs(ratio - factor) for factor in (0.8, 1.2)) < 1e-9 for ratio in ratios)
    assert breeder.living() == {f"0.{place}" for place in range(10) if place not in (3, 8)}
    # No two turns learn from the same examples.
    assert len({birth.seed for birth in (*first, *second)}) == 20


@given(seed=st.integers(0, 2**31), share=st.floats(0, 0.5), population=st.integers(2, 12))
def test_all_go_on_but_those_that_copy(seed: int, share: float, population: int) -> None:
    breeder = pbt(seed, population=population, share=share, rate=(1e-4, 1e-2))
    generator = np.random.default_rng(seed)
    for generation in range(4):
        births = breeder.ask()
        assert len(births) == population
        assert all(1e-4 * 0.8**4 < rate(birth) < 1e-2 * 1.2**4 for birth in births)
        fitness = generator.random(population)
        breeder.tell(births, fitness, told(fitness.tolist()))
        moved = [place for place, birth in enumerate(breeder.ask()) if birth.parents != (f"{generation}.{place}",)]
        assert len(moved) == (max(1, int(share * population)) if share else 0)
        # Nobody above the middle copies.
        assert all(fitness[place] <= np.median(fitness) for place in moved)


def test_a_turn_that_failed_is_left_behind() -> None:
    breeder = pbt(population=4, share=0.25)
    births = breeder.ask()
    breeder.tell(births, np.array([-1.0, 0.5, -1.0, 0.7]), told([0.0] * 4, failed=[0, 2]))
    assert [birth.parents[0] for birth in breeder.ask()] == ["0.3", "0.1", "0.3", "0.3"]
    alone = pbt(population=3, share=0)
    births = alone.ask()
    alone.tell(births, np.array([-1.0, 0.5, 0.7]), told([0.0] * 3, failed=[0]))
    again = alone.ask()
    # It has nobody to copy, and tries again from where it was.
    assert again[0].parents == births[0].parents
    assert again[0].seed != births[0].seed
    everyone = pbt(population=3)
    births = everyone.ask()
    everyone.tell(births, np.zeros(3), told([0.0] * 3, failed=[0, 1, 2]))
    assert [birth.parents for birth in everyone.ask()] == [birth.parents for birth in births]


def ends_at(breeder: Breeder[Any], generations: int) -> float:
    """Where a toy ends: a large rate comes down fast and stops early, a small one slowly, and further down."""
    where = dict.fromkeys(FOUNDERS, 1.0)
    values = np.zeros(0)
    for generation in range(generations):
        births = breeder.ask()
        values = np.array([abs(1 - rate(b)) * where[b.parents[0]] + 0.1 * rate(b) ** 2 for b in births])
        where |= {f"{generation}.{place}": float(value) for place, value in enumerate(values)}
        breeder.tell(births, -values, told(values.tolist()))
    return float(values.min())


def test_where_no_one_rate_is_best_it_ends_below_random_search_at_equal_steps() -> None:
    for seed in range(5):
        options = {"population": 10, "rate": (0.01, 1.0)}
        assert ends_at(pbt(seed, **options), 40) < ends_at(pbt(seed, share=0, **options), 40)


def test_a_turn_moves_a_model_by_its_own_rate(world: Path) -> None:
    founders = founders_of(world, "models")
    tensors = Offspring(founders, {}.__getitem__)._tensors("0.0", Birth("train", ("a",)))
    learner = learner_of(world, founders, steps=1, batch=4)
    for own in (1e-4, 3e-3):
        taught = learner.teach("0.0", tensors, {"rate": own})
        # AdamW's first step moves an entry by the rate, or by less where its gradient is tiny.
        moved = max(float((taught[name] - tensors[name]).abs().max()) for name in tensors)
        assert moved == pytest.approx(own, rel=1e-2)
    usual = learner.teach("0.0", tensors, {"rate": 3e-3, "mix": [1.0, 1.0]})
    other = learner.teach("0.0", tensors, {"rate": 3e-3, "mix": [1.0, 30.0]})
    assert all(torch.equal(usual[name], learner.teach("0.0", tensors, {"rate": 3e-3})[name]) for name in usual)
    assert any(not torch.equal(usual[name], other[name]) for name in usual)


@pytest.mark.parametrize(
    "own", [{"rate": "fast"}, {"rate": -1.0}, {"rate": 0.1, "mix": [1.0]}, {"rate": 0.1, "mix": [0.0, 1.0]}, [], 3]
)
def test_settings_of_a_record_that_cannot_be_are_refused(world: Path, own: Any) -> None:
    founders = founders_of(world, "models")
    learner = learner_of(world, founders)
    with pytest.raises(InputError, match="expected a learning rate and 2 weights"):
        learner.teach("0.0", {}, own)


LEARN = {"kind": "whole_models", "learn": {"steps": 2, "batch": 2}}


@pytest.mark.slow
def test_a_study_ends_alike_stopped_or_not_and_tells_every_turn(world: Path, tmp_path: Path) -> None:
    strategy = {"name": "pbt", "options": {"population": 4, "share": 0.25, "rate": [1e-4, 1e-2], "mix": True}}
    study = bred_study(world, "pbt", strategy, vary=LEARN, budget={"evaluations": 12})
    run_study(study, tmp_path / "whole", ledger=tmp_path / "whole.sqlite")
    run_study(study, tmp_path / "stopped", ledger=tmp_path / "stopped.sqlite", evaluations=5)
    for file in (tmp_path / "stopped" / "population").glob("*.safetensors"):
        file.unlink()
    run_study(study, tmp_path / "stopped", ledger=tmp_path / "stopped.sqlite")
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")
    assert best(tmp_path / "stopped") == best(tmp_path / "whole")
    pedigree = json.loads((tmp_path / "whole" / "winner" / "pedigree.json").read_text())["pedigree"]
    assert {birth["op"] for birth in pedigree.values()} == {"train"}
    assert all(birth["learn"]["rate"] > 0 for birth in pedigree.values())


def test_a_plan_says_how_many_steps_a_population_takes(cli: Callable[..., Any], world: Path) -> None:
    study = bred_study(world, "planned", {"name": "pbt", "options": {"population": 4}}, vary=LEARN)
    answer = cli("plan", study)
    assert answer.code == 0, answer.err
    assert "every child learns 2 steps of 2 examples, 28 steps in all at most" in answer.out
    assert json.loads(cli("plan", study, "--json").out)["learning"] == {"steps": 2, "batch": 2}


@pytest.mark.parametrize("vary", [None, {"kind": "whole_models"}, {**LEARN, "learn": {"inherit": False}}])
def test_without_learning_it_is_refused_in_one_line(
    cli: Callable[..., Any], world: Path, tmp_path: Path, vary: dict[str, Any] | None
) -> None:
    study = bred_study(world, "unlearned", "pbt", **({} if vary is None else {"vary": vary}))
    answer = cli("evolve", study, "--out", tmp_path / "run", "--quiet")
    assert answer.code == 2
    assert "pbt trains its models, so `vary` needs `learn: {steps: N}`" in answer.err
    assert yaml.safe_load(study.read_text())["strategy"] == "pbt"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_recipe_runs_on_the_testbed(cli: Callable[..., Any], tiny_testbed: Any, tmp_path: Path) -> None:
    for name in ("base", "lora", "tasks"):
        (tmp_path / name).symlink_to(tiny_testbed.folder / name)
    recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "pbt.yaml").read_text())
    recipe["vary"]["learn"] = {"steps": 2, "batch": 5}
    recipe["strategy"]["options"]["population"] = 3
    recipe |= {"budget": {"evaluations": 6}, "finalists": 0}
    recipe["tasks"] |= {"valid": 4, "test": 4}
    (tmp_path / "pbt.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("evolve", tmp_path / "pbt.yaml", "--out", tmp_path / "run", "--quiet")
    assert answer.code == 0, answer.err
    births = [line["genome"] for line in history(tmp_path / "run")]
    assert [birth["parents"] for birth in births[:3]] == [["reverse"]] * 3
    # One of the second turn copied, the others went on.
    assert sum(birth["parents"] != [f"0.{place}"] for place, birth in enumerate(births[3:])) == 1
    assert all(len(birth["learn"]["mix"]) == 5 for birth in births)
