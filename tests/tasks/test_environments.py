"""Environments as tasks: checked lines, the same return alone and beside others, bounds, and policies as models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_models import POLE, policy, write_episodes, write_policy
from safetensors.torch import load_file, save_file

from genepool.errors import InputError
from genepool.merging.registry import all_methods
from genepool.tasks import Ledger, evaluate, load_tasks, open_model
from genepool.tasks.environments import Environment, Episode, environments, episode_of
from genepool.tasks.models.digits.network import DigitsTransformer, Shape
from genepool.tasks.models.policy import actions_of
from genepool.tasks.playing import demonstrations, play

gymnasium = pytest.importorskip("gymnasium")
Cli = Callable[..., Any]
HERE = sorted(environments())


def playable(name: str) -> Environment:
    kind = environments()[name]
    try:
        kind.make({key: one.default for key, one in kind.settings.items()}, "")
    except InputError as error:
        pytest.skip(error.what)
    return kind


# ---------------------------------------------------------------------- environments


@pytest.mark.parametrize("name", HERE)
def test_defaults_and_limits_are_gymnasiums(name: str) -> None:
    """An episode of an empty config is, step by step and to the bit, one of `gymnasium.make`."""
    kind = playable(name)
    theirs = gymnasium.make(kind.registered)
    assert theirs.spec is not None
    assert theirs.spec.max_episode_steps == kind.most_steps
    acted = np.random.default_rng(0).integers(0, max(1, kind.spaces.choices), kind.most_steps)
    numbers = np.random.default_rng(1).uniform(-2, 2, (kind.most_steps, 1)).astype(np.float32)
    seen, total, steps, over = [theirs.reset(seed=7)[0]], 0.0, 0, False
    while not over:
        action = int(acted[steps]) if kind.spaces.choices else numbers[steps]
        observed, reward, terminated, truncated, _ = theirs.step(action)
        seen.append(observed)
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    turn = iter(range(kind.most_steps))

    def act(observations: np.ndarray) -> np.ndarray:
        step = next(turn)
        return np.array([float(acted[step])]) if kind.spaces.choices else numbers[step : step + 1]

    [found] = play(act, [episode_of({"environment": name, "seed": 7}, "")], 1, keep=True)
    assert (found.total, found.steps) == (total, steps)
    assert all(np.array_equal(one, other) for one, other in zip(found.seen, seen, strict=False))


def test_a_config_changes_the_world_as_physics_says() -> None:
    """What Gymnasium computes from a length and a mass follows them."""
    kind = environments()["cart_pole"]
    config = {key: one.default for key, one in kind.settings.items()}
    made = kind.make({**config, "length": 2.0, "masspole": 0.3}, "")
    assert (made.length, made.total_mass, made.polemass_length) == (2.0, 1.3, 0.6)
    pendulum = environments()["pendulum"].make({"m": 2.0, "l": 0.5, "g": 3.0}, "")
    assert (pendulum.m, pendulum.l, pendulum.g) == (2.0, 0.5, 3.0)


def test_the_price_of_fuel_is_another_reward_of_the_same_world() -> None:
    kind = environments()["lunar_lander"]
    assert kind.reward(-0.3, 2, {"fuel": 1.0, "time": 0.0}, over=False) == -0.3
    assert kind.reward(-0.3, 2, {"fuel": 11.0, "time": 0.0}, over=False) == pytest.approx(-3.3)
    assert kind.reward(1.0, 0, {"fuel": 11.0, "time": 0.0}, over=False) == 1.0
    assert kind.reward(-100.0, 2, {"fuel": 11.0, "time": 0.0}, over=True) == -100.0


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(0.05, 8)), min_size=2, max_size=5), st.integers(0, 3))
def test_an_episode_has_the_same_outcome_alone_and_beside_others(starts: list[tuple[int, float]], seed: int) -> None:
    model = policy(seed, size=2.0)
    episodes = [Episode("cart_pole", (("length", length), ("steps", 60.0)), start) for start, length in starts]

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return actions_of(model(torch.from_numpy(observations)), POLE)

    together = play(act, episodes, 8)
    assert together == [play(act, [one], 8)[0] for one in episodes]
    assert play(act, episodes[::-1], 8) == together[::-1]


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"environment": "cart_poles"}, "there is no environment 'cart_poles'"),
        ({"environment": 3}, "there is no environment '3'"),
        ({"environment": "os:system"}, "there is no environment"),
        ({"environment": "cart_pole", "seed": -1}, "for `seed`"),
        ({"environment": "cart_pole", "seed": True}, "for `seed`"),
        ({"environment": "cart_pole", "seed": 2**32}, "for `seed`"),
        ({"environment": "cart_pole", "config": []}, "a list for `config`"),
        ({"environment": "cart_pole", "config": {"lenght": 1}}, "no setting 'lenght'"),
        ({"environment": "cart_pole", "config": {"__class__": 1}}, "no setting '__class__'"),
        ({"environment": "cart_pole", "config": {"length": 0}}, "for `length`"),
        ({"environment": "cart_pole", "config": {"length": float("nan")}}, "for `length`"),
        ({"environment": "cart_pole", "config": {"length": "1"}}, "for `length`"),
        ({"environment": "cart_pole", "config": {"steps": 501}}, "for `steps`"),
        ({"environment": "cart_pole", "config": {"steps": 1.5}}, "for `steps`"),
        ({"environment": "cart_pole", "prompt": "a"}, "and `prompt`"),
        ({"environment": "cart_pole", "id": []}, "`id` must be text"),
        ({"seed": 1}, "has a `seed` and no `environment`"),
    ],
)
def test_a_line_that_is_no_episode_is_named(tmp_path: Path, line: dict[str, Any], what: str) -> None:
    folder = write_episodes(tmp_path / "poles", [{"environment": "cart_pole"}, line])
    with pytest.raises(InputError) as caught:
        load_tasks(folder)
    assert what in str(caught.value)
    assert "test.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("metric: episode_return", "`returns` is needed"),
        ("metric: episode_return\nreturns: [1, 1]", "the lower one first"),
        ("metric: episode_return\nreturns: [0, .inf]", "finite"),
        ("metric: exact_match\nreturns: [0, 1]", "`returns` has no effect"),
        ("metric: exact_match\nclip: true", "`clip` has no effect"),
        ("metric: exact_match", "names an environment, and the metric exact_match judges answers"),
    ],
)
def test_bounds_are_declared_for_episodes_alone(tmp_path: Path, settings: str, what: str) -> None:
    folder = write_episodes(tmp_path / "poles", [{"environment": "cart_pole"}], settings=settings)
    with pytest.raises(InputError, match=what):
        load_tasks(folder)


def test_questions_are_no_episodes(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "poles", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(InputError, match="names no environment"):
        load_tasks(folder)


def test_an_example_is_known_by_what_is_played(tmp_path: Path) -> None:
    """Not by its id, nor by how its config is written."""
    lines = [
        {"id": "one", "environment": "cart_pole", "config": {"length": 1, "gravity": 9}, "seed": 3},
        {"id": "two", "environment": "cart_pole", "config": {"gravity": 9.0, "length": 1.0}, "seed": 3},
        {"id": "three", "environment": "cart_pole", "config": {"gravity": 9.0, "length": 1.0}, "seed": 4},
    ]
    [task] = load_tasks(write_episodes(tmp_path / "poles", lines))
    first, second, third = (example.key for example in task.examples("test"))
    assert first == second != third
    assert task.examples("test")[0].prompt == "cart_pole gravity=9 length=1 seed=3"


# ---------------------------------------------------------------------- through the command


def test_evaluate_plays_episodes_and_keeps_their_returns(cli: Cli, tmp_path: Path) -> None:
    model = write_policy(tmp_path / "policy", 0)
    lines = [{"environment": "cart_pole", "config": {"steps": 40}, "seed": seed} for seed in range(6)]
    tasks = write_episodes(tmp_path / "tasks" / "poles", lines, settings="metric: episode_return\nreturns: [0, 40]")
    answer = cli("evaluate", model, "--tasks", tasks.parent, "--json")
    assert answer.code == 0, answer.err
    [row] = json.loads(answer.out)["results"]
    [played] = load_tasks(tasks)
    asked = open_model(model).load()
    episodes = [one.episode for one in played.examples("test") if one.episode]
    totals = [one.total for one in play(asked.act, episodes, 128)]
    assert row["mean"] == pytest.approx(sum(totals) / 6 / 40)
    again = cli("evaluate", model, "--tasks", tasks.parent, "--json")
    assert json.loads(again.out)["evaluated"] == 0
    told = cli("outcomes", "export", tmp_path / "rows.jsonl")
    assert told.code == 0, told.err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["detail"]["return"] for row in rows] == totals


def test_a_return_outside_its_bounds_names_the_example(cli: Cli, tmp_path: Path) -> None:
    model = write_policy(tmp_path / "policy", 0)
    tasks = write_episodes(
        tmp_path / "poles",
        [{"id": "first", "environment": "cart_pole"}],
        settings="metric: episode_return\nreturns: [0, 2]",
    )
    answer = cli("evaluate", model, "--tasks", tasks)
    assert answer.code == 2
    [line] = [one for one in answer.err.splitlines() if one.startswith("error:")]
    assert "the example 'first' has the return" in line
    assert "outside of 0 to 2" in line


def test_a_return_outside_of_bounds_that_clip_scores_as_the_nearer_one(cli: Cli, tmp_path: Path) -> None:
    """What scores between the bounds is what it was, and what the ledger keeps is the return itself."""
    model = write_policy(tmp_path / "policy", 0)
    lines = [{"environment": "cart_pole", "config": {"steps": 40}, "seed": seed} for seed in range(6)]
    tasks = write_episodes(
        tmp_path / "tasks" / "poles", lines, settings="metric: episode_return\nreturns: [9, 10]\nclip: true"
    )
    answer = cli("evaluate", model, "--tasks", tasks.parent, "--json")
    assert answer.code == 0, answer.err
    assert cli("outcomes", "export", tmp_path / "rows.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    totals = [row["detail"]["return"] for row in rows]
    assert max(totals) > 10
    assert [row["score"] for row in rows] == [min(max(total - 9, 0), 1) for total in totals]


def test_an_environment_of_other_spaces_or_not_installed_is_one_clear_error(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_policy(tmp_path / "policy", 0)
    cars = write_episodes(tmp_path / "cars", [{"environment": "mountain_car"}])
    answer = cli("evaluate", model, "--tasks", cars)
    assert answer.code == 2
    assert "mountain_car has 2 numbers observed and 3 actions" in answer.err
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    poles = write_episodes(tmp_path / "poles", [{"environment": "cart_pole"}])
    answer = cli("evaluate", model, "--tasks", poles)
    assert answer.code == 2
    assert 'pip install "genepool[environments]"' in answer.err


def test_what_does_not_act_is_refused(cli: Cli, tmp_path: Path) -> None:
    shape = Shape(8, 1, 2, 8)
    digits = tmp_path / "digits"
    digits.mkdir()
    save_file(DigitsTransformer(shape).state_dict(), digits / "model.safetensors")
    (digits / "config.json").write_text(json.dumps(shape.config()))
    poles = write_episodes(tmp_path / "poles", [{"environment": "cart_pole"}])
    answer = cli("evaluate", digits, "--tasks", poles)
    assert answer.code == 2
    assert "needs episode" in answer.err


# ---------------------------------------------------------------------- policies


def test_a_policy_is_a_classifier_of_observations(tmp_path: Path) -> None:
    """What it does in an episode is what it answers for the same observation as a text."""
    model = open_model(write_policy(tmp_path / "policy", 1)).load()
    [task] = load_tasks(write_episodes(tmp_path / "poles", [{"environment": "cart_pole", "seed": 5}]))
    steps = demonstrations(model, task, task.examples("test"), 128, 1000)
    scores = model.class_scores([text for _, text, _ in steps])
    assert [str(int(one)) for one in scores.argmax(-1)] == [action for _, _, action in steps]
    few = demonstrations(model, task, task.examples("test"), 128, 5)
    assert len(few) == min(5, len(steps))
    assert set(few) <= set(steps)


@pytest.mark.parametrize("prompt", ["1 2 3", "1 2 3 4 5", "a b c d", "1 2 3 inf", "nan 0 0 0", "1e39 0 0 0", ""])
def test_what_is_no_observation_is_refused(tmp_path: Path, prompt: str) -> None:
    model = open_model(write_policy(tmp_path / "policy", 1)).load()
    with pytest.raises(InputError, match="expected an observation"):
        model.class_scores([prompt])


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 10**9},
        {"hidden_size": True},
        {"num_hidden_layers": 0},
        {"num_actions": 0},
        {"action_numbers": 2},
        {"action_bound": -1},
        {"observation_scales": [1, 1, 1]},
        {"observation_scales": [1, 1, 1, 0]},
        {"observation_size": "4"},
    ],
)
def test_a_damaged_config_is_one_clear_error(cli: Cli, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_policy(tmp_path / "policy", 0)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **change}))
    answer = cli("evaluate", folder, "--tasks", write_episodes(tmp_path / "poles", [{"environment": "cart_pole"}]))
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert "config.json" in answer.err


@pytest.mark.parametrize("change", [{"hidden_size": 4096}, {"hidden_size": 4096, "num_hidden_layers": 64}])
def test_a_config_cannot_ask_for_more_than_is_stored(
    cli: Cli, tmp_path: Path, change: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes that are allowed each, and whose network would take 4 GB, are held against the file before it is built."""
    folder = write_policy(tmp_path / "policy", 0)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **change}))
    built: list[str] = []
    plain = torch.nn.Linear.__init__

    def counted(self: torch.nn.Linear, *sizes: int, **options: Any) -> None:
        plain(self, *sizes, **options)
        built.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", counted)
    answer = cli("evaluate", folder, "--tasks", write_episodes(tmp_path / "poles", [{"environment": "cart_pole"}]))
    assert answer.code == 2
    assert "layers.0.weight has shape [6, 4], and its config.json asks for [4096, 4]" in answer.err
    assert set(built) == {"meta"}


def test_weights_that_overflow_give_no_action(tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "policy", 0, spoil=float("nan"))
    [task] = load_tasks(write_episodes(tmp_path / "poles", [{"environment": "cart_pole"}]))
    with Ledger(":memory:") as ledger:
        table = evaluate([folder], [task], ledger=ledger)
        [outcome] = table.outcomes(table.models[0], "poles")
    assert (outcome.score, dict(outcome.detail)) == (0.0, {})


def test_a_policy_that_acts_by_numbers_plays_and_is_no_classifier(cli: Cli, tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "policy", 0, kind="pendulum")
    tasks = write_episodes(
        tmp_path / "swings",
        [{"environment": "pendulum", "config": {"m": 0.5, "steps": 20}, "seed": seed} for seed in range(3)],
        settings="metric: episode_return\nreturns: [-326, 0]",
    )
    answer = cli("evaluate", folder, "--tasks", tasks, "--json")
    assert answer.code == 0, answer.err
    [row] = json.loads(answer.out)["results"]
    assert 0 < row["mean"] < 1
    (tmp_path / "asked.jsonl").write_text('{"prompt": "1 0 0", "answer": "0"}\n')
    assert cli("evaluate", folder, "--tasks", tmp_path / "asked.jsonl").code == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(all_methods()))
def test_every_merge_method_merges_policies(cli: Cli, tmp_path: Path, name: str) -> None:
    """As it does digits: what a method cannot do without is told, and what it writes is a policy."""
    base = write_policy(tmp_path / "base", 0)
    models = [write_policy(tmp_path / str(seed), seed, near=base) for seed in (1, 2)]
    recipe = {"genepool": 1, "method": name, "base": str(base), "models": [str(one) for one in models]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    answer = cli("merge", tmp_path / "recipe.yaml", tmp_path / "merged")
    if answer.code == 2:
        assert "Traceback" not in answer.err
        assert "error: " in answer.err
        return
    assert answer.code == 0, answer.err
    model = open_model(tmp_path / "merged").load()
    assert model.act(np.zeros((3, 4), np.float32)).shape == (3,)
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
