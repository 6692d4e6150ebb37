"""Studies over models that share only a part: `rest` and `tensors`, through `genepool evolve`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import torch
import yaml
from safetensors.torch import load_file

from genepool.errors import InputError
from genepool.evolution import Study, load_study
from genepool.schema import validate

Cli = Callable[..., Any]

COMMON = {key: evolve_world.STUDY[key] for key in ("study", "base", "skills", "tasks", "seed", "batch")}
MERGE = {"kind": "merge_parameters", "method": "task_arithmetic", "parameters": {"lambda": 1.0}}
WEIGHT = {"weight": {"low": 0.0, "high": 1.0, "start": 0.4}}
RULES = [{"match": "norm", "from": "base"}, {"match": "*.k_proj.*", "from": "b"}]
BUDGET = {"evaluations": 6}


def study(**parts: Any) -> dict[str, Any]:
    return {**COMMON, "vary": {**MERGE, "search": WEIGHT}, "budget": BUDGET, **parts}


def read(**parts: Any) -> Study:
    return validate(Study, study(**parts), "study")


@pytest.mark.parametrize(
    ("parts", "key", "noun"),
    [
        ({"strategy": "genome", "rest": "a"}, "rest", "genome"),
        ({"strategy": "essa", "tensors": RULES}, "tensors", "essa"),
    ],
)
def test_what_is_no_merge_refuses_them_in_one_line(parts: dict[str, Any], key: str, noun: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(Study, {**COMMON, "budget": BUDGET, **parts}, "study")
    assert f"`{key}` says what a merge keeps, and {noun} varies" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_they_count_in_the_record_by_name_and_only_where_they_are_there(tmp_path: Path) -> None:
    plain = read()
    assert not {"rest", "tensors"} & plain.settings().keys()
    said = read(rest="a", tensors=RULES)
    assert said.settings() == {**plain.settings(), "rest": "a", "tensors": [
        {"match": ["norm"], "from": "base"}, {"match": ["*.k_proj.*"], "from": "b"}]}  # fmt: skip
    for folder in (tmp_path / "one", tmp_path / "two"):
        # A skill's path means the skill; any other model counts by what it holds, wherever it lies.
        (folder / "third").mkdir(parents=True)
        there = read(rest="skills/a", tensors=[{"match": "head", "from": "third"}]).resolved(folder)
        assert there.settings()["rest"] == "a"
        assert there.settings()["tensors"] == [{"match": ["head"], "from": "third"}]
        assert there.recipe_parts()["tensors"][0]["from"] == str(folder / "third")
        assert there.recipe_parts()["rest"] == there.skills[0].model
    checkpoints = {**COMMON, "budget": BUDGET, "strategy": "lcsc", "rest": "a"}
    assert validate(Study, checkpoints, "study").merges_a_part


def wider(world: Path, name: str) -> None:
    """Gives a skill an MLP of another size: its attention is all that it shares with the others."""
    from transformers import LlamaForCausalLM

    folder = world / "skills" / name
    old = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    config = type(old.config).from_dict({**old.config.to_dict(), "intermediate_size": 48})
    new = LlamaForCausalLM(config)
    kept = {key: value for key, value in old.state_dict().items() if ".mlp." not in key}
    new.load_state_dict(kept, strict=False)
    new.save_pretrained(folder)


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """A world whose skill b has a wider MLP."""
    world = evolve_world.build_world(tmp_path / "world")
    wider(world, "b")
    return world


def written(world: Path, **parts: Any) -> Path:
    path = world / "parts.yaml"
    path.write_text(yaml.safe_dump(study(**parts)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("rest", ["a", "b"])
def test_evolve_over_models_that_share_a_part(uneven: Path, tmp_path: Path, cli: Cli, rest: str) -> None:
    refused = cli("evolve", written(uneven), "--out", tmp_path / "run", "--quiet")
    assert (refused.code, "intermediate_size is 32 in " in refused.err) == (2, True), refused.err
    path = written(uneven, rest=rest, tensors=RULES)
    done = cli("evolve", path, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    winner = Path(json.loads(done.out)["winner"])
    out = load_file(winner / "model.safetensors")
    models = {name: load_file(uneven / folder / "model.safetensors")
              for name, folder in (("base", "base"), ("a", "skills/a"), ("b", "skills/b"))}  # fmt: skip
    assert out.keys() == models[rest].keys()
    for name, value in out.items():
        kept = rest if ".mlp." in name else "base" if "norm" in name else "b" if ".k_proj." in name else None
        if kept is not None:
            torch.testing.assert_close(value, models[kept][name], rtol=0, atol=0)
    weights = json.loads((tmp_path / "run" / "best.json").read_text())["genome"]
    name = "model.layers.1.self_attn.q_proj.weight"
    change = sum(weights[f"{one}.weight"] * (models[one][name] - models["base"][name]) for one in ("a", "b"))
    torch.testing.assert_close(out[name], models["base"][name] + change)
    # The winner's recipe is a merge with the same keys.
    again = tmp_path / "again.yaml"
    shutil.copy(winner / "recipe.yaml", again)
    assert {"rest", "tensors"} <= yaml.safe_load(again.read_text()).keys()
    assert cli("merge", again, "--out", tmp_path / "again").code == 0
    made = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(made[name], value) for name, value in out.items())
    # A finished run goes on with a larger budget, and refuses another `rest`.
    more = cli("evolve", path, "--out", tmp_path / "run", "--budget", "12", "--workers", "2", "--json")
    assert more.code == 0, more.err
    other = cli("evolve", written(uneven, rest="base"), "--out", tmp_path / "run", "--quiet")
    assert other.code == 2


@pytest.mark.slow
def test_a_third_model_may_give_tensors_and_coefficients_too(uneven: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(uneven / "base", uneven / "third")
    rules = [{"match": "model.norm", "from": "third"}]
    path = written(uneven, rest="a", tensors=rules, vary={"kind": "checkpoint_coefficients"})
    done = cli("evolve", path, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    out = load_file(Path(json.loads(done.out)["winner"]) / "model.safetensors")
    third = load_file(uneven / "third" / "model.safetensors")
    torch.testing.assert_close(out["model.norm.weight"], third["model.norm.weight"], rtol=0, atol=0)
    assert load_study(path).recipe_parts()["tensors"][0]["from"] == str((uneven / "third").resolve())


def classifiers(world: Path, *labels_of_b: str) -> Path:
    """A world of classifiers: base and a tell good from bad, and b has other classes."""
    from transformers import BertConfig, BertForSequenceClassification

    from genepool.testbed.tokenizer import VOCABULARY, fast_tokenizer

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for seed, (folder, labels) in enumerate(
        (("base", ("bad", "good")), ("skills/a", ("bad", "good")), ("skills/b", labels_of_b))
    ):
        torch.manual_seed(seed)
        named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, pad_token_id=0, **sizes, **named)
        BertForSequenceClassification(config).save_pretrained(world / folder)
        fast_tokenizer(64).save_pretrained(world / folder)
    task = world / "tasks" / "mood"
    task.mkdir(parents=True)
    (task / "task.yaml").write_text(yaml.safe_dump({"metric": "exact_match"}))
    for split in ("train", "valid", "test"):
        lines = [
            {"id": f"{split}{i}", "prompt": f"abc{'abcdefgh'[i]}", "answer": ("bad", "good")[i % 2]} for i in range(8)
        ]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return world


@pytest.mark.slow
def test_classifiers_of_other_labels(tmp_path: Path, cli: Cli) -> None:
    parts = {"rest": "a", "tasks": "tasks"}
    other = classifiers(tmp_path / "other", "one", "two", "three")
    refused = cli("evolve", written(other, **parts), "--out", tmp_path / "no", "--quiet")
    assert (refused.code, "no answer of the task is one" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "no").exists()
    world = classifiers(tmp_path / "world", "bad", "good", "fair")
    refused = cli("evolve", written(world, tasks="tasks"), "--out", tmp_path / "no", "--quiet")
    assert (refused.code, "add `rest: " in refused.err) == (2, True), refused.err
    done = cli("evolve", written(world, **parts), "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    winner = Path(json.loads(done.out)["winner"])
    head = load_file(world / "skills" / "a" / "model.safetensors")["classifier.weight"]
    torch.testing.assert_close(load_file(winner / "model.safetensors")["classifier.weight"], head, rtol=0, atol=0)
    assert json.loads((winner / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    # What the run wrote of its study says the same.
    kept = load_study(tmp_path / "run" / "study.yaml")
    assert kept.settings() == load_study(world / "parts.yaml").settings()
