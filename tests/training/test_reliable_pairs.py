"""The stage `reliable`: what dropout tells of a pair, which pairs are drawn, and the loop that is typed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from genepool.errors import InputError
from genepool.tasks import Example, open_model
from genepool.training import Training, run_training
from genepool.training import run as running
from genepool.training.dropout_estimates import DropoutEstimator, mutual_information
from genepool.training.loops import run as looping
from genepool.training.loops.data import Line
from genepool.training.loops.recipe import load_loop
from genepool.training.loops.stage import find_stage
from genepool.training.loops.stages.reliable import drawn

LOOP: dict[str, Any] = {
    "loop": 1,
    "rounds": 2,
    "lora": {"rank": 2},
    "test": 8,
    "training": {"every": 3, "batch": 8, "learning_rate": 0.01},
    "first": [
        {"draw": {"count": 24}},
        {"sample": {"samples": 4}},
        {"pair": {"chosen": "answer", "to": "known"}},
    ],
    "round": [
        {"draw": {"count": 24}},
        {"sample": {"samples": 4}},
        {"pair": None},
        {"reliable": {"steps": 6, "passes": 3, "template": "{prompt}{first}.{second}="}},
        {"train": {"of": "reliable", "objective": "dpo", "steps": 3}},
    ],
}


def test_the_recipe_of_the_system_is_a_loop() -> None:
    loop = load_loop(Path(__file__).parents[2] / "recipes" / "upo.yaml")
    assert [stage.name for _, _, stage in loop.plan()].count("reliable") == loop.rounds == 3


def test_what_passes_disagree_about_by_hand() -> None:
    sure, torn, apart = [[0.9, 0.1]] * 2, [[0.5, 0.5]] * 2, [[1.0, 0.0], [0.0, 1.0]]
    shares = np.array([sure, torn, apart]).swapaxes(0, 1)
    # Nothing is known of a pair that every pass finds even: that is no disagreement.
    assert mutual_information(shares).tolist() == pytest.approx([0, 0, math.log(2)], abs=1e-9)
    some = np.array([[[0.8, 0.2]], [[0.4, 0.6]]])

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert mutual_information(some).tolist() == pytest.approx([entropy(0.6) - (entropy(0.8) + entropy(0.4)) / 2])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_a_disagreement_lies_between_none_and_that_of_two_certain_passes(values: list[float]) -> None:
    shares = np.array([[[value, 1 - value]] for value in values])
    assert 0 <= mutual_information(shares)[0] <= math.log(2) + 1e-9


@given(seed=st.integers(0, 1000), part=st.floats(0, 1))
def test_a_part_is_drawn_without_replacement_and_by_weight(seed: int, part: float) -> None:
    places = np.arange(10, 30)
    weights = np.array([0.0] * 10 + [1.0] * 10)
    found = drawn(places, weights, part, seed, "easy")
    assert len(found) == len(set(found)) == int(20 * part)
    assert set(found) <= set(places.tolist())
    assert sum(place < 20 for place in found) == max(0, len(found) - 10)
    assert found == drawn(places, weights, part, seed, "easy")


def test_heavier_pairs_are_drawn_more_often() -> None:
    counts = np.zeros(4)
    for seed in range(400):
        counts[drawn(np.arange(4), np.array([1.0, 1.0, 1.0, 7.0]), 0.25, seed, "hard")] += 1
    assert counts.sum() == 400
    assert counts[3] / 400 == pytest.approx(0.7, abs=0.07)


def test_what_a_model_wrote_is_not_filled_in_again() -> None:
    stage: Any = find_stage("reliable", {"template": "{prompt}|{first}|{second}"})
    line = Line("t", Example("1", "{first}", ("{second}",), rejected=("{prompt}",)))
    assert stage._asked(line, first_is_chosen=True) == "{first}|{second}|{prompt}"
    assert stage._asked(line, first_is_chosen=False) == "{first}|{prompt}|{second}"
    with pytest.raises(InputError, match="lacks {second}"):
        find_stage("reliable", {"template": "{prompt}{first}"})


@pytest.mark.slow
def test_dropout_is_drawn_in_the_factors_alone_and_by_seed(small_world: Path, tmp_path: Path) -> None:
    base = small_world / "base"
    recipe = Training(
        base=str(base), tasks=(str(small_world / "tasks" / "first"),), steps=8, batch=8, learning_rate=0.05, test=2,
        lora={"rank": 2, "dropout": 0.2},  # type: ignore[arg-type]
    )  # fmt: skip
    run_training(recipe, tmp_path / "run", ledger=tmp_path / "ledger.sqlite")
    adapter = tmp_path / "run" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["lora_dropout"] == 0.2
    prompts, answers = ["fab=", "fca=", "fhh="], ("a", "c")

    def estimate(dropout: float, seed: int) -> Any:
        model: Any = open_model(base).load()
        return DropoutEstimator(model, adapter, dropout).shares(prompts, answers, 4, seed)

    found = estimate(0.5, 1)
    assert found.shape == (4, 3, 2)
    assert np.allclose(found.sum(-1), 1)
    assert np.array_equal(found, estimate(0.5, 1))
    assert not np.allclose(found, estimate(0.5, 2))
    assert not np.allclose(found[0], found[1])
    # Where nothing is dropped, all passes are the adapter on its base.
    still = estimate(1e-9, 1)
    told = open_model(f"{base}+{adapter}").load().loglikelihoods([p for p in prompts for _ in answers], [*answers] * 3)
    logs = np.array([one.logprob for one in told]).reshape(3, 2)
    expected = np.exp(logs) / np.exp(logs).sum(-1, keepdims=True)
    assert np.allclose(still, expected, atol=1e-4)


@pytest.fixture
def loop(cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`loop("run", rounds=1, ...)`: runs LOOP with these changes."""

    def call(out: str, *options: Any, **changes: Any) -> Any:
        file = tmp_path / "loop.yaml"
        plain = {**LOOP, "base": half_known, "tasks": [str(small_world / "tasks" / "first")], **changes}
        file.write_text(yaml.safe_dump(plain))
        return cli("train", file, "--out", tmp_path / out, "--quiet", *options)

    return call


def bits(folder: Path) -> dict[str, Any]:
    """What must be the same: the lines and adapters of every stage, and the values of the result.

    The result's header names the folders of the stages, and the metrics hold times.
    """
    kept = [path for path in (folder / "stages").rglob("*") if path.suffix in (".safetensors", ".jsonl")]
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in kept}
    result = load_file(folder / "skill.safetensors")
    values = {name: tensor.tolist() for name, tensor in result.items()}
    return {name: one for name, one in found.items() if "metrics" not in name} | values


@pytest.mark.slow
def test_a_loop_learns_from_pairs_that_its_estimator_confirms(
    loop: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = looping.LoopRun._run_stage
    left: list[str] = []

    def looked_at(self: Any, *which: Any) -> Any:
        mark = stage(self, *which)
        if self._loaded is not None:
            left.extend(name for name, _ in self._loaded[1].model.named_parameters() if "lora_" in name)
        return mark

    with monkeypatch.context() as patch:
        patch.setattr(looping.LoopRun, "_run_stage", looked_at)
        answer = loop("run", "--json")
    assert answer.code == 0, answer.err
    # Whoever is asked after the stage is asked without its factors, and without their dropout.
    assert not left
    stages = [one for one in json.loads(answer.out)["stages"] if one["stage"] == "reliable"]
    assert len(stages) == 2
    for told in (one["told"] for one in stages):
        assert 0 < told["agreed"] <= told["pairs"]
        assert told["easy"] == told["hard"] == told["agreed"] // 2
        assert max(told["easy"], told["hard"]) <= told["chosen"] <= told["easy"] + told["hard"]
        assert 0 <= told["bald"] <= math.log(2)
    folder = tmp_path / "run" / "stages" / "0001-04-reliable"
    written = [json.loads(line) for line in (folder / "reliable.jsonl").read_text().splitlines()]
    assert len(written) == stages[0]["told"]["known"] + stages[0]["told"]["chosen"]
    comparisons = [
        json.loads(line) for line in (folder / "data" / "comparisons" / "train.jsonl").read_text().splitlines()
    ]
    assert sorted({one["answer"] for one in comparisons}) == ["1", "2"]
    assert len(comparisons) == 2 * stages[0]["told"]["known"]
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 4 and "reliable" in str(self.out):
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert loop("stopped").code == 130
    assert loop("stopped").code == 0
    assert bits(tmp_path / "stopped") == bits(tmp_path / "run")


def test_a_stage_that_draws_nothing_or_has_no_known_pairs_is_refused(loop: Callable[..., Any], tmp_path: Path) -> None:
    nothing = [*LOOP["round"][:3], {"reliable": {"easy": 0, "hard": 0}}, *LOOP["round"][4:]]
    answer = loop("run", round=nothing)
    assert answer.code == 2
    assert "no pair is drawn" in answer.err
    answer = loop("run", first=[])
    assert answer.code == 2
    assert "reads 'known', which no stage before it writes" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "loop.json").exists()
