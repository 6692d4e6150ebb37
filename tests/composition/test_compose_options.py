"""The options of `genepool compose` that say what may be opened, and how it is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_world
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
Cli = Callable[..., Any]

TASKS = """
from genepool.tasks import load_tasks

first, second = load_tasks({folder!r}, ["first", "second"])
"""
METRIC = """
from genepool.tasks.metrics import metric


@metric("1")
def upside_down(output, example, strip):
    return float(output != example.answer)
"""


def bed_of(world: Path) -> tuple[list[Path], Path, Path]:
    return [world / "full" / name for name in ("first", "second")], world / "base", world / "tasks"


def test_fewer_tasks_and_examples_in_another_type(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    skills, base, tasks = bed_of(small_bed)
    answer = cli(
        "compose", "adamerging", *skills, "--base", base, "--tasks", tasks, "--task", "first", "--task", "plain",
        "--examples", 6, "--device", "cpu", "--dtype", "bfloat16", "--out", tmp_path / "out", "--json",
        *compose_world.quick(),
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "second: there is no task of this name" in answer.err
    record = json.loads(answer.out)["record"]
    assert record["examples"] == {"first": {"learn": 4, "held": 2}, "plain": {"learn": 4, "held": 2}}
    assert (tmp_path / "out" / "compose.yaml").read_text().count("bfloat16") == 1


def test_a_composition_with_its_skills_may_be_moved(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    skills, base, tasks = bed_of(small_bed)
    quick = compose_world.quick()
    cli("compose", "adamerging", *skills, "--base", base, "--tasks", tasks, "--keep", "--bundle", "--out",
        tmp_path / "out", "--examples", 4, *quick)  # fmt: skip
    (tmp_path / "out").rename(tmp_path / "moved")
    assert cli("evaluate", tmp_path / "moved", "--tasks", tasks, "--limit", 2).code == 0
    assert sorted(path.name for path in (tmp_path / "moved" / "skills").iterdir()) == [
        "first.safetensors", "second.safetensors",
    ]  # fmt: skip


def test_pickles_are_opened_only_when_they_are_allowed(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    (first, second), base, tasks = bed_of(small_bed)
    pickled = tmp_path / "first"
    pickled.mkdir()
    torch.save(load_file(first / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "config.json").write_bytes((first / "config.json").read_bytes())
    call = ("compose", "adamerging", pickled, second, "--base", base, "--tasks", tasks, *compose_world.quick())
    refused = cli(*call, "--out", tmp_path / "out")
    assert refused.code == 2
    assert "--allow-pickle" in refused.err
    assert cli(*call, "--out", tmp_path / "out", "--allow-pickle").code == 0


def test_code_is_run_only_when_it_is_named(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    skills, base, tasks = bed_of(small_bed)
    file = tmp_path / "tasks.py"
    file.write_text(TASKS.format(folder=str(tasks)))
    call = ("compose", "adamerging", *skills, "--base", base, "--tasks", file, *compose_world.quick())
    refused = cli(*call, "--out", tmp_path / "out")
    assert refused.code == 2
    assert "--trust-tasks" in refused.err
    assert cli(*call, "--out", tmp_path / "out", "--trust-tasks", file).code == 0


def test_a_metric_of_the_users_own(cli: Cli, small_bed: Path, tmp_path: Path, own_metrics: None) -> None:
    skills, base, _ = bed_of(small_bed)
    plugin, tasks = tmp_path / "metric.py", tmp_path / "tasks"
    plugin.write_text(METRIC)
    for number, name in enumerate(("first", "second")):
        compose_world.write_task(tasks / name, number)
        (tasks / name / "task.yaml").write_text("metric: upside_down\n")
    call = ("compose", "adamerging", *skills, "--base", base, "--tasks", tasks, *compose_world.quick())
    assert cli(*call, "--out", tmp_path / "out").code == 2
    answer = cli(*call, "--out", tmp_path / "out", "--plugin", plugin)
    assert answer.code == 0, answer.err


def test_a_plan_says_what_a_fit_would_hold(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    skills, base, tasks = bed_of(small_bed)
    call = ("compose", "adamerging", *skills, "--base", base, "--tasks", tasks, *compose_world.quick())
    assert cli(*call, "--keep", "--out", tmp_path / "out").code == 0
    assert cli(*call, "--out", tmp_path / "folded").code == 0
    file = tmp_path / "folded" / "compose.yaml"
    planned = json.loads(cli("plan", file, "--json").out)
    entries = sum(tensor.numel() for tensor in load_file(base / "model.safetensors").values())
    assert planned["network_bytes"] == 4 * entries
    assert planned["skill_bytes"] == {"first": 4 * entries, "second": 4 * entries}
    assert planned["tasks"] == ["first", "plain", "second", "third"]
    assert "adamerging of 2 skills" in cli("plan", file).out
    assert "has no effect without a recipe file" in cli("plan", file, "--all").err
