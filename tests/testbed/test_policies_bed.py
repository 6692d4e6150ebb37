"""The testbed of policies: episodes of worlds, adapters that PEFT opens, and the same bits twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genepool.errors import InputError
from genepool.tasks import load_tasks, open_model
from genepool.testbed import build
from genepool.testbed.folder import hash_files
from genepool.testbed.policies import builder
from genepool.testbed.policies.builder import PolicySchedule
from genepool.testbed.policies.worlds import AS_IT_IS, BETWEEN, DEFAULT_WORLDS, WORLDS, choose

pytest.importorskip("gymnasium")
Cli = Callable[..., Any]
SECOND = PolicySchedule(4, 1, 30, (2, 4, 1, 0.5, 1.0), (1, 4, 1, 0.3, 1.0), (1, 4, 1, 0.3, 1.0), 1)
SKILLS = DEFAULT_WORLDS[:2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a testbed that is too small to learn anything."""
    folder = tmp_path_factory.mktemp("policies") / "bed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "schedule_for", lambda *, tiny: SECOND)
        build(folder, bed="policies", skills=SKILLS, tiny=True)
    return folder


@pytest.mark.slow
def test_a_bed_is_the_same_twice(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "schedule_for", lambda *, tiny: SECOND)
    other = build(tmp_path / "bed", bed="policies", skills=SKILLS, tiny=True)
    first, second = hash_files(built), hash_files(other.folder)
    named = {name for name in first if name.endswith(("adapter_config.json", "manifest.json"))}
    assert {name: one for name, one in first.items() if name not in named} == {
        name: one for name, one in second.items() if name not in named
    }


def test_its_tasks_are_episodes_and_splits_share_none(built: Path) -> None:
    tasks = {task.name: task for task in load_tasks(built / "tasks")}
    assert set(tasks) == {*SKILLS, AS_IT_IS.name, BETWEEN.name}
    for task in tasks.values():
        keys = [{example.key for example in task.examples(split)} for split in ("train", "valid", "test")]
        assert [len(one) for one in keys] == [24, 8, 24]
        assert not keys[0] & keys[1]
        assert not keys[0] & keys[2]
        assert not keys[1] & keys[2]
    lengths = [dict(one.episode.config)["length"] for one in tasks[BETWEEN.name].examples("test") if one.episode]
    assert len(set(lengths)) == len(lengths)
    assert all(0.03 <= one <= 20 for one in lengths)


def test_scores_are_those_of_evaluate(cli: Cli, built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    adapter = f"{built / 'base'}+{built / 'lora' / SKILLS[0]}"
    for name, model in (("base", built / "base"), (f"lora/{SKILLS[0]}", adapter)):
        answer = cli("evaluate", model, "--tasks", built / "tasks", "--json")
        assert answer.code == 0, answer.err
        found = {row["task"]: round(row["mean"], 4) for row in json.loads(answer.out)["results"]}
        assert found == manifest["models"][name]["scores"]


def test_adapters_are_pefts_own(built: Path) -> None:
    """PEFT puts the adapter on our network and gives what the base with it gives here."""
    from peft import PeftModel

    from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape

    name = SKILLS[1]
    ours = open_model(f"{built / 'base'}+{built / 'lora' / name}").load()
    config = json.loads((built / "base" / "config.json").read_text())
    network = PolicyNetwork(PolicyShape.of(config, ""))
    network.load_state_dict(load_file(built / "base" / "model.safetensors"))
    theirs = PeftModel.from_pretrained(network, built / "lora" / name).eval()
    seen = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    texts = [" ".join(map(str, row)) for row in seen.tolist()]
    with torch.inference_mode():
        expected = theirs(seen).log_softmax(-1)
    torch.testing.assert_close(ours.class_scores(texts), expected, atol=1e-5, rtol=1e-4)


def test_unknown_worlds_and_regimes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no policies task 'longes'"):
        choose(["longes"])
    with pytest.raises(InputError, match="one regime"):
        build(tmp_path / "bed", bed="policies", regime="acquire")
    assert not (tmp_path / "bed").exists()


def test_without_gymnasium_the_extra_is_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "policies", "--tiny")
    assert answer.code == 2
    assert 'pip install "genepool[environments]"' in answer.err
    assert not (tmp_path / "bed").exists()


@pytest.mark.slow
def test_specialists_balance_their_own_pole_and_differ(cli: Cli, tmp_path: Path) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "policies", "--tiny")
    assert answer.code == 0, answer.err
    models = json.loads((tmp_path / "bed" / "manifest.json").read_text())["models"]
    scores = {name: one["scores"] for name, one in models.items()}
    assert scores["base"][AS_IT_IS.name] > 0.4
    assert all(scores[f"full/{name}"][name] > 0.9 for name in WORLDS)
    assert all(scores[f"lora/{name}"][name] > 0.7 for name in WORLDS)
    assert scores["full/short"]["longest"] < 0.6
    assert scores["full/very_long"]["short"] < 0.6
