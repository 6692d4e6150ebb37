"""Landers with two rewards: their tasks, the prices that tell the rewards apart, and what is said without Box2D."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.errors import InputError
from genepool.tasks import load_tasks
from genepool.tasks.environments import environments
from genepool.testbed.policies import builder
from genepool.testbed.policies.builder import Cloning, LanderSchedule, PolicySettings
from genepool.testbed.policies.worlds import FAMILIES, LANDERS, WORLDS, choose

Cli = Callable[..., Any]
FAMILY = FAMILIES["lunar_lander"]
_ONE = (1, 4, 1, 0.1, 1.0)
FEW = LanderSchedule(8, 1, 60, (0, 4, 1, 0.1, 1.0), _ONE, _ONE, 1, Cloning(rounds=1, episodes=1, steps=2, batch=8))


def _needs_landers() -> None:
    try:
        choose(list(LANDERS))
    except InputError as error:
        pytest.skip(f"{error.what}. {error.fix}")


def test_what_is_written_is_read_as_it_is_meant(tmp_path: Path) -> None:
    for world in (*LANDERS.values(), FAMILY.as_it_is, FAMILY.between):
        (tmp_path / world.name).mkdir()
        world.write(tmp_path / world.name, {"train": 3, "valid": 2, "test": 2}, 400)
    tasks = {task.name: task for task in load_tasks(tmp_path)}
    assert set(tasks) == {"thrifty", "swift", "generic", "between"}
    assert all(task.settings.returns == (-600.0, 300.0) and task.settings.clip for task in tasks.values())
    prices = {name: dict(task.examples("test")[0].episode.config) for name, task in tasks.items()}  # type: ignore[union-attr]
    assert prices["thrifty"] == {"fuel": 10.0, "steps": 400.0}
    assert prices["swift"] == {"time": 0.5, "steps": 400.0}
    assert prices["generic"] == {"steps": 400.0}
    # The same start is another example where the reward is another.
    keys = [{one.key for one in task.examples("train")} for task in tasks.values()]
    assert sum(map(len, keys)) == len(set.union(*keys))


def test_the_price_of_time_is_another_reward_of_the_same_world() -> None:
    kind = environments()["lunar_lander"]
    assert kind.reward(-0.25, 2, {"fuel": 1.0, "time": 0.5}, over=False) == -0.75
    assert kind.reward(1.0, 0, {"fuel": 10.0, "time": 0.5}, over=False) == 0.5
    assert kind.reward(100.0, 0, {"fuel": 1.0, "time": 0.5}, over=True) == 100.0


def test_tasks_of_two_environments_are_refused() -> None:
    with pytest.raises(InputError, match=r"2 environments \(cart_pole, lunar_lander\).*short.* or thrifty, swift"):
        choose(["thrifty", next(iter(WORLDS))])


def test_a_pole_is_the_same_bed_as_before_there_were_landers() -> None:
    """Nothing of landers is in the settings of poles, so beds that were built stay what they are."""
    few = [8, 12, 3, 0.3, 1.0]
    schedule = {
        "hidden": 16, "layers": 2, "steps": 200, "base": [20, 12, 3, 0.3, 0.5], "full": few, "lora": few, "rank": 2,
    }  # fmt: skip
    whole = {
        "version": 1, "tiny": True, "seed": 0, "skills": list(WORLDS), "bed": "policies", "schedule": schedule,
    }  # fmt: skip
    known = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    assert PolicySettings(tiny=True, seed=0, skills=tuple(WORLDS)).digest() == known


def test_without_box2d_the_extra_is_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium")
    monkeypatch.setitem(__import__("sys").modules, "Box2D", None)
    monkeypatch.delitem(__import__("sys").modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "gymnasium.envs.box2d", raising=False)
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "policies", "--skills", "thrifty,swift", "--tiny")
    assert answer.code == 2
    [line] = [one for one in answer.err.splitlines() if one.startswith("error:")]
    assert 'pip install "genepool[landers]"' in line
    assert not (tmp_path / "bed").exists()


@pytest.mark.slow
def test_a_bed_of_landers_is_built_and_asked(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _needs_landers()
    monkeypatch.setattr(builder, "schedule_for", lambda *, tiny, lands: FEW)
    monkeypatch.setattr(builder, "TINY_COUNTS", {"train": 2, "valid": 1, "test": 2})
    made = cli("testbed", "build", tmp_path / "bed", "--bed", "policies", "--skills", "thrifty,swift", "--tiny")
    assert made.code == 0, made.err
    scores = json.loads((tmp_path / "bed" / "manifest.json").read_text())["models"]["base"]["scores"]
    answer = cli("evaluate", tmp_path / "bed" / "base", "--tasks", tmp_path / "bed" / "tasks", "--json")
    assert answer.code == 0, answer.err
    assert {row["task"]: round(row["mean"], 4) for row in json.loads(answer.out)["results"]} == scores


@pytest.mark.slow
def test_a_copy_of_the_rule_lands() -> None:
    """In most episodes that it has not seen, as the rule does."""
    _needs_landers()
    from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape
    from genepool.testbed.policies.cloning import copied
    from genepool.testbed.policies.evolving import returns_of

    shape = PolicyShape(environments()["lunar_lander"].spaces, 32, 2, FAMILY.scales)
    network = PolicyNetwork(shape).eval()
    start = {name: one.detach().clone() for name, one in network.state_dict().items()}

    def episodes(number: int, count: int) -> list[Any]:
        return FAMILY.as_it_is.episodes(f"copy {number}", count, 400)

    found = copied(network, shape.spaces, start, episodes, Cloning(), 0)
    many = {name: one[None] for name, one in found.items()}
    returns = returns_of(network, shape.spaces, many, FAMILY.as_it_is.episodes("test", 20, 400))
    assert float(np.mean(returns > 150)) > 0.6
