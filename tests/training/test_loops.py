"""Loops, as they are typed: what every stage leaves, that a killed one goes on to the same bits, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SMALL: dict[str, Any] = {"steps": 6, "batch": 8, "learning_rate": 0.02}
LOOP: dict[str, Any] = {
    "loop": 1,
    "rounds": 2,
    "lora": {"rank": 2},
    "test": 8,
    "training": {"every": 3, "batch": 8},
    "round": [
        {"draw": {"count": 12}},
        {"sample": {"samples": 4}},
        {"select": {"at_least": 1.0}},
        {"train": SMALL},
        {"pair": None},
        {"train": {"of": "pairs", "objective": "dpo", "steps": 3, "learning_rate": 0.005}},
        {"measure": {"count": 6}},
    ],
}


@pytest.fixture
def loop(cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`loop("run", *options, rounds=1, ...)`: runs LOOP with these changes."""

    def call(out: str, *options: Any, **changes: Any) -> Any:
        file = tmp_path / "loop.yaml"
        plain = {**LOOP, "base": half_known, "tasks": [str(small_world / "tasks" / "first")], **changes}
        file.write_text(yaml.safe_dump({key: value for key, value in plain.items() if value is not ...}))
        return cli("train", file, "--out", tmp_path / out, "--quiet", *options)

    return call


def said(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "loop.json").read_text()))


def files(folder: Path) -> dict[str, bytes]:
    """What must be the same bits; records that hold times or absolute paths are left out."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".jsonl", ".json") and path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if "adapter_config" not in path.name}


@pytest.mark.slow
def test_every_round_leaves_its_samples_its_trainings_and_what_they_cost(
    loop: Callable[..., Any], cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    answer = loop("run", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["schema"] == 1
    assert [row["task"] for row in told["target"]] == ["first"]
    assert [row["task"] for row in told["others"]] == ["grade"]
    assert [one["stage"] for one in told["stages"] if one["round"] == 1] == [
        "draw", "sample", "select", "train", "pair", "train", "measure",
    ]  # fmt: skip
    samples = [
        json.loads(line)
        for path in sorted((tmp_path / "run" / "stages").glob("*-sample/samples.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(samples) == 2 * 12
    assert told["tokens_generated"] == sum(one[1] for line in samples for one in line["samples"])
    assert told["labels"] == len({line["prompt"] for line in samples})
    assert told["steps"] == 2 * (6 + 3)
    lessons = (tmp_path / "run" / "stages" / "0001-03-select" / "lessons.jsonl").read_text().splitlines()
    assert all(line["prompt"][1] == line["answers"][0] for line in map(json.loads, lessons))
    # The second training of a round began with what the first one had learned.
    recipe = (tmp_path / "run" / "stages" / "0001-06-train" / "run" / "training.yaml").read_text()
    assert "0001-04-train/run/adapter" in recipe
    assert cli("verify-run", tmp_path / "run" / "stages" / "0002-04-train" / "run", "--step", 5, "--quiet").code == 0
    result = cli(
        "evaluate", f"{half_known}+{tmp_path / 'run' / 'skill.safetensors'}", "--tasks",
        small_world / "tasks" / "first", "--limit", 8, "--json", "--quiet",
    )  # fmt: skip
    assert json.loads(result.out)["results"][0]["mean"] == told["target"][0]["after"]
    assert "Stages" in (tmp_path / "run" / "report.html").read_text()
    before = files(tmp_path / "run")
    assert loop("run").code == 0
    assert files(tmp_path / "run") == before
