"""`genepool train` with reinforcement, as it is typed: what is drawn, taught, rewarded, counted and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import rows, told

SHORT = ("--steps", 2, "--every", 2, "--batch", 4, "--learning-rate", 0.01, "--test", 4, "--quiet")


def test_prompts_that_no_sample_solves_are_learned_from_their_answer(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", half_known, "--objective", "hpt", "--set", "gate=1",
        "--set", "samples=4", "--set", "demonstration=0.5", "--set", "entropy=0.01", "--set", "temperature=0.3",
        "--out", run, "--json", *SHORT, "--batch", 12,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["samples"]
    solved = [
        row[0]
        for row in rows(
            run,
            "SELECT sum(reward = 1) FROM examples WHERE demonstration = 0 GROUP BY step, place / 4 ORDER BY step",
        )
    ]
    assert len(solved) == found["groups"] == 24
    taught = sum(count <= 1 for count in solved)
    assert 0 < taught < 24
    assert found["demonstrations"] == taught == rows(run, "SELECT sum(demonstration) FROM examples")[0][0]
    # Solved by all: alike, so that nothing is learned. The samples of a prompt that is taught are not kept either.
    assert found["equal_groups"] == sum(count in (0, 4) for count in solved)
    assert found["learned_from"] == 4 * sum(count in (2, 3) for count in solved)
    assert found["drawn"] == 96
    assert "right answers instead" in (run / "report.html").read_text()


@pytest.mark.slow
def test_novel_answers_of_the_majority_are_rewarded_by_the_model_or_an_encoder(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    task = small_world / "tasks" / "first"
    more = ("--objective", "evol_rl", "--set", "samples=6", "--set", "trained=3", "--set", "temperature=0.1", *SHORT)
    answer = cli("train", task, "--base", half_known, "--out", tmp_path / "own", "--full", *more)
    assert answer.code == 0, answer.err
    assert told(tmp_path / "own")["samples"]["drawn"] == 2 * 4 * 3
    values = [row[0] for row in rows(tmp_path / "own", "SELECT reward FROM examples")]
    assert all(-1 <= value <= -0.5 or 0.5 <= value <= 1 for value in values)
    encoder = tmp_path / "encoder"
    shutil.copytree(small_world / "other", encoder)
    named = ("--set", "reward={{novelty: {{encoder: {}}}}}")
    answer = cli(
        "train", task, "--base", half_known, "--out", tmp_path / "run", *more, named[0], named[1].format(encoder)
    )
    assert answer.code == 0, answer.err
    # The same encoder elsewhere is the same training; another one is another.
    encoder.rename(tmp_path / "moved")
    again = ("train", task, "--base", half_known, "--out", tmp_path / "run", *more, named[0])
    assert cli(*again, named[1].format(tmp_path / "moved")).code == 0
    assert cli("verify-run", tmp_path / "run", "--step", 2, "--quiet").code == 0
    other = cli(*again, named[1].format(small_world / "base"))
    assert other.code == 2
    assert "novelty" in other.err
    assert "the training changed" in other.err


@pytest.mark.slow
def test_values_are_trained_beside_the_model_and_rewards_end_samples(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", half_known, "--objective", "reft", "--set", "iterations=2",
        "--set", "reward={partial_credit: {reads: text, partial: 0.25}}", "--set", "samples=2", "--set", "discount=0.9",
        "--set", "value=2", "--set", "value_clip=0.3", "--set", "decay=0.5", "--set", "kl=0.1", "--out", run, *SHORT,
        "--steps", 4,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert {row[0] for row in rows(run, "SELECT DISTINCT reward FROM examples")} <= {0.0, 0.25, 1.0}
    assert rows(run, "SELECT count(*), min(kept) FROM examples WHERE kl IS NOT NULL") == [(32, 1)]
    # Two steps on the same samples.
    assert rows(run, "SELECT step, reward FROM examples WHERE step = 3 ORDER BY place") == [
        (3, row[0]) for row in rows(run, "SELECT reward FROM examples WHERE step = 4 ORDER BY place")
    ]
    from safetensors.torch import load_file

    state = load_file(run / "states" / "0000004" / "state.safetensors")
    assert float(state["value:objective.value_head"].abs().max()) > 0
    assert float(state["value:objective.value_head.bias"].abs().max()) > 0
    assert not any("value_head" in name for name in load_file(run / "adapter" / "adapter_model.safetensors"))


@pytest.mark.slow
def test_the_recipe_of_reft_learns_right_answers_first_and_keeps_near_them(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "reft.yaml").read_text())
    first, second = recipe["first"][0]["train"], recipe["round"][0]["train"]
    second["options"]["reward"] = {"partial_credit": {"reads": "text"}}
    for stage, steps in ((first, 40), (second, 10)):
        stage |= {"steps": steps, "batch": 8, "learning_rate": 0.02 if stage is first else 0.002}
    recipe |= {"base": str(small_world / "base"), "tasks": [str(small_world / "tasks" / "first")], "others": None}
    (tmp_path / "reft.yaml").write_text(yaml.safe_dump(recipe | {"test": 16}))
    answer = cli("train", tmp_path / "reft.yaml", "--out", tmp_path / "run", "--quiet", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert [one["stage"] for one in found["stages"]] == ["train", "train"]
    assert found["tokens_generated"] > 0
    inner = next((tmp_path / "run" / "stages").glob("0001-01-train")) / "run"
    # Before the second training nothing is apart from the model that the first one made.
    assert rows(inner, "SELECT max(abs(kl)) < 1e-5 FROM examples WHERE step = 1") == [(1,)]
    taught = found["stages"][0]["told"]
    assert taught["last_loss"] < 0.9 * taught["first_loss"]


BAD: dict[str, tuple[list[Any], str]] = {
    "more trained than drawn": (["--set", "samples=4", "--set", "trained=5"], "at most the number of samples (4)"),
    "an unknown option": (["--set", "reward={novelty: {encoda: x}}"], "encoda"),
    "an encoder that is not there": (["--set", "reward={novelty: {encoder: nowhere}}"], "nowhere"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_is_wrong_is_one_line(cli: Callable[..., Any], small_world: Path, tmp_path: Path, case: str) -> None:
    options, said = BAD[case]
    task, base = small_world / "tasks" / "first", small_world / "base"
    answer = cli("train", task, "--base", base, "--objective", "grpo", "--out", tmp_path / "run", *options, *SHORT)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
