"""Adapters in, adapters out: candidates of a study written as PEFT adapters, which PEFT itself reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import torch
import yaml

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.collection import write_candidate
from genepool.weights import open_weights


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with two random adapters of rank 2 in it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = evolve_world.build_world(tmp_path_factory.mktemp("world"))
    for name in "pq":
        torch.manual_seed(ord(name))
        config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), config)
        tuned.save_pretrained(str(folder / name))
    return folder


def bred(world: Path, out: Path, strategy: Any, skills: str = "pq", **changes: Any) -> Path:
    data = {k: v for k, v in evolve_world.STUDY.items() if k not in ("method", "parameters", "search")}
    adapters = [{"name": name, "model": f"{world / 'base'}+{world / name}"} for name in skills]
    path = world / f"{out.name}.yaml"
    budget = {"evaluations": 8}
    path.write_text(yaml.safe_dump({**data, "skills": adapters, "strategy": strategy, "budget": budget, **changes}))
    run_study(path, out, ledger=out.parent / "ledger.sqlite")
    return out


def with_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()
    return dict(merged.state_dict())


def same(adapter: dict[str, torch.Tensor], model: Path) -> bool:
    weights = open_weights(model)
    return all(torch.allclose(adapter[name], weights.read(name), atol=1e-6) for name in weights.names())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "skills"),
    [
        ({"name": "genome", "options": {"population": 3}}, "pq"),
        ({"name": "weight_es", "options": {"population": 2}}, "pq"),
        ({"name": "essa", "options": {"population": 4}}, "p"),
    ],
)
def test_bred_adapters_keep_their_factors(world: Path, tmp_path: Path, strategy: Any, skills: str) -> None:
    out = bred(world, tmp_path / f"run-{strategy['name']}", strategy, skills)
    for name in ("0.1", "winner"):
        verdict, adapter = write_candidate(out, name, tmp_path / f"{name}-lora", rank=2)
        assert adapter is not None
        assert (adapter.error, adapter.left_out) == (0, "")
        assert verdict.fitness is not None
        assert json.loads((tmp_path / f"{name}-lora" / "adapter_config.json").read_text())["r"] == 2
        write_candidate(out, name, tmp_path / name)
        assert same(with_peft(world / "base", tmp_path / f"{name}-lora"), tmp_path / name)
    winner, written = open_weights(out / "winner"), open_weights(tmp_path / "winner")
    assert all(torch.equal(winner.read(name), written.read(name)) for name in winner.names())
    assert "The winner of run-" in (tmp_path / "winner-lora" / "README.md").read_text()


def test_founders_stay_what_they_are(world: Path, tmp_path: Path) -> None:
    out = bred(world, tmp_path / "run", {"name": "genome", "options": {"population": 3, "parents_too": True}})
    write_candidate(out, "0.0", tmp_path / "copy", rank=2)
    ours, theirs = with_peft(world / "base", tmp_path / "copy"), with_peft(world / "base", world / "p")
    assert all(torch.allclose(ours[name], tensor, atol=1e-6) for name, tensor in theirs.items())


@pytest.mark.slow
def test_merges_and_models_keep_their_largest_directions(world: Path, tmp_path: Path) -> None:
    study = world / "merging.yaml"
    study.write_text(yaml.safe_dump({**evolve_world.STUDY, "budget": {"evaluations": 8}}))
    run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    _, much = write_candidate(tmp_path / "out", "0.1", tmp_path / "one", rank=1)
    _, little = write_candidate(tmp_path / "out", "0.1", tmp_path / "many", rank=64)
    assert much is not None
    assert little is not None
    # The rest is what PEFT has no adapter for.
    assert 0.1 < little.error < much.error < 1
    assert "model.embed_tokens.weight: " in little.left_out
    card = (tmp_path / "many" / "README.md").read_text()
    assert f"Scores are of the change before {little.error:.1%} of its size" in card
    with pytest.raises(InputError, match="not empty"):
        write_candidate(tmp_path / "out", "0.1", tmp_path / "one", rank=1)
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        write_candidate(tmp_path / "out", "0.1", tmp_path / "none", rank=0)
    assert not (tmp_path / "none").exists()
