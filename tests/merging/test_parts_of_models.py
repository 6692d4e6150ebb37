"""Merging what models share: `rest`, rules for single tensors, modules; and refusals that say one thing that works."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.errors import InputError
from genepool.merging import Recipe, plan_merge
from genepool.schema import validate
from genepool.weights import TensorWeights

WIDTH = 4


def classifier(labels: int | None, seed: int, layers: int = 2, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A body, and a head where a number of labels is given."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (9, WIDTH), "norm.weight": (WIDTH,)}
    for layer in range(layers):
        shapes[f"layers.{layer}.self_attn.q_proj.weight"] = (WIDTH, WIDTH)
        shapes[f"layers.{layer}.mlp.up_proj.weight"] = (2 * WIDTH, WIDTH)
        shapes[f"layers.{layer}.mlp.down_proj.weight"] = (WIDTH, 2 * WIDTH)
    made = {f"model.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if labels is not None:
        made["score.weight"] = torch.randn(labels, WIDTH, generator=generator)
    return {**made, **more}


def merged(given: dict[str, dict[str, torch.Tensor]], **recipe: Any) -> dict[str, torch.Tensor]:
    opened = {name: TensorWeights(made, name) for name, made in given.items()}
    data = {"method": "linear", "models": [name for name in given if name != recipe.get("base")], **recipe}
    weights = plan_merge(Recipe.model_validate(data), opened).weights()
    return {name: weights.read(name) for name in weights.names()}


def refusal(given: dict[str, dict[str, torch.Tensor]], **recipe: Any) -> str:
    with pytest.raises(InputError) as caught:
        merged(given, **recipe)
    return str(caught.value)


THREE, FIVE = classifier(3, 1), classifier(5, 2)


def test_other_numbers_of_labels_are_called_that_and_the_advice_works() -> None:
    said = refusal({"three": THREE, "five": FIVE})
    assert "recipe:score.weight: three has 3 labels and five has 5. " in said
    assert "add `rest: three`" in said
    assert "vocabular" not in said
    out = merged({"three": THREE, "five": FIVE}, rest="three")
    assert set(out) == set(THREE)
    for name, value in out.items():
        wanted = THREE[name] if name == "score.weight" else (THREE[name] + FIVE[name]) / 2
        torch.testing.assert_close(value, wanted)


def test_the_rest_may_be_any_models() -> None:
    out = merged({"three": THREE, "five": FIVE}, rest="five")
    torch.testing.assert_close(out["score.weight"], FIVE["score.weight"])
    apart = {"three": THREE, "five": FIVE, "seven": classifier(7, 3)}
    out = merged(apart, models=["three", "five"], rest="seven")
    torch.testing.assert_close(out["score.weight"], apart["seven"]["score.weight"])
    torch.testing.assert_close(out["model.norm.weight"], (THREE["model.norm.weight"] + FIVE["model.norm.weight"]) / 2)


def test_a_base_without_the_head_merges_bodies() -> None:
    base = classifier(None, 0)
    models = {"base": base, "a": classifier(3, 1), "b": classifier(3, 2)}
    said = refusal(models, base="base", method="task_arithmetic", parameters={"lambda": 1.0})
    assert "base has no tensor score.weight, which a has" in said
    assert "add `rest: a`" in said
    out = merged(models, base="base", method="task_arithmetic", parameters={"lambda": 1.0}, rest="a")
    torch.testing.assert_close(out["score.weight"], models["a"]["score.weight"])
    name = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(out[name], models["a"][name] + models["b"][name] - base[name])
    # The base has no head to give: what it lacks is left out, or taken by name.
    out = merged(models, base="base", method="task_arithmetic", parameters={"lambda": 1.0}, rest="base")
    assert set(out) == set(base)


def test_rules_keep_drop_and_merge_after_all_and_the_first_counts() -> None:
    rules = [
        {"match": "*.1.mlp.*", "from": "merge"},
        {"match": ["mlp", "model.norm"], "from": "b"},
        {"match": "embedding", "from": "drop"},
    ]
    a, b = classifier(3, 1), classifier(3, 2)
    out = merged({"a": a, "b": b}, tensors=rules)
    assert set(a) - set(out) == {"model.embed_tokens.weight"}
    for name, value in out.items():
        kept = name == "model.norm.weight" or ".0.mlp." in name
        torch.testing.assert_close(value, b[name] if kept else (a[name] + b[name]) / 2)


def test_a_rule_may_name_the_base_or_a_model_that_is_not_merged() -> None:
    models = {"base": classifier(3, 0), "a": classifier(3, 1), "b": classifier(3, 2), "c": classifier(3, 3)}
    rules = [{"match": "head", "from": "base"}, {"match": "norm", "from": "c"}]
    out = merged(models, base="base", method="ties", models=["a", "b"], tensors=rules)
    torch.testing.assert_close(out["score.weight"], models["base"]["score.weight"])
    torch.testing.assert_close(out["model.norm.weight"], models["c"]["model.norm.weight"])


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"match": "*.mpl.*", "from": "a"}], "tensors[0].match: '*.mpl.*' matches no tensor"),
        ([{"match": "scor.weight", "from": "a"}], "'scor.weight' matches no tensor. Did you mean 'score.weight'?"),
        ([{"match": "*" * 40, "from": "a"}], "matches no tensor"),
        ([{"match": "extra.weight", "from": "b"}], "a, which the result is like, has no tensor extra.weight"),
        ([{"match": "model.norm", "from": "b"}], "the shapes differ: [5] in b, [4] in a"),
    ],
)
def test_rules_that_cannot_be_are_one_line(rules: list[dict[str, Any]], said: str) -> None:
    a = classifier(3, 1)
    b = classifier(3, 2, **{"extra.weight": torch.ones(2), "model.norm.weight": torch.ones(5)})
    assert said in refusal({"a": a, "b": b}, tensors=[*rules, {"match": "model.norm", "from": "a"}])


@pytest.mark.parametrize(
    ("asked", "place"),
    [({"rest": "base"}, "rest"), ({"tensors": [{"match": "*", "from": "drop"}, {"match": "*", "from": "base"}]},
     r"tensors\[1\].from")],
)  # fmt: skip
def test_a_base_that_is_not_there_is_told_by_its_key(
    asked: dict[str, Any], place: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        save_file(classifier(3, 1), tmp_path / name / "model.safetensors")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"genepool": 1, "method": "linear", "models": ["a", "b"], **asked}))
    answer = cli("merge", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert answer.code == 2
    assert re.search(rf"r.yaml:{place}: got `base`, and the recipe has no base. Add `base: MODEL`", answer.err)


def test_rules_that_drop_everything_are_told() -> None:
    rules = [{"match": "*", "from": "drop"}]
    assert "recipe:tensors: the rules drop every tensor. " in refusal({"three": THREE, "a": THREE}, tensors=rules)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"vision_tower": ["models"], "vision_model": ["models"]},
         "modules.vision_model: 'vision_tower' and 'vision_model' both stand for the part `vision`. Keep one"),
        ({"shared": ["models"], "default": ["models"]}, "'shared' and 'default' both stand for the part `other`"),
        ({"text_decoder": ["models", "slices"]}, "a module has either `models` or `slices`"),
    ],
)  # fmt: skip
def test_modules_of_mergekit_that_stand_for_one_part_are_refused(
    modules: dict[str, list[str]], said: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    lists = {"models": [{"model": "a", "parameters": {"weight": 1}}], "slices": []}
    written = {name: {key: lists[key] for key in keys} for name, keys in modules.items()}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"merge_method": "linear", "modules": written}, sort_keys=False))
    answer = cli("merge", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert answer.code == 2
    assert said in answer.err


def test_a_module_has_one_list_even_if_the_other_is_empty() -> None:
    with pytest.raises(InputError, match="either `models` or `slices`"):
        validate(Recipe, {"method": "linear", "modules": {"text": {"models": ["a"], "slices": []}}}, "r.yaml")


def test_positions_are_no_vocabulary() -> None:
    long = {"model.embed_positions.weight": torch.ones(12, WIDTH)}
    short = {"model.embed_positions.weight": torch.ones(10, WIDTH)}
    said = refusal({"a": classifier(3, 1, **long), "b": classifier(3, 2, **short)})
    assert "the models hold other numbers of positions: [10, 4] in b, [12, 4] in a" in said


def test_models_that_share_nothing_have_nothing_to_merge() -> None:
    a = {"x.weight": torch.ones(2, 2)}
    assert "no tensor to merge in one shape" in refusal({"a": a, "b": {"y.weight": torch.ones(2)}}, rest="a")


def test_what_is_not_merged_is_told_everywhere(
    tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    labels = {"id2label": {"0": "no", "1": "maybe", "2": "yes"}}
    save_model("three", THREE, **labels)
    save_model("five", FIVE)
    recipe = tmp_path / "recipe.yaml"
    data = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}} for m in ("three", "five")]}
    recipe.write_text(yaml.safe_dump(data))
    # mergekit has no such key, so its files are told of the option.
    refused = cli("merge", recipe, "--out", tmp_path / "out")
    assert (refused.code, "run it with `--rest three`" in refused.err) == (2, True)
    told = json.loads(cli("plan", recipe, "--rest", "three", "--json").out)
    assert (told["like"], told["kept"], told["left_out"]) == ("three", {"three": ["score.weight"]}, {})
    assert "1 tensor is as in three, not merged: score.weight" in cli("plan", recipe, "--rest", "three").out
    answer = cli("merge", recipe, "--out", tmp_path / "out", "--rest", "three", "--verify")
    assert answer.code == 0, answer.err
    assert "note: 1 tensor is as in three, not merged: score.weight." in answer.err
    written = load_file(tmp_path / "out" / "model.safetensors")
    torch.testing.assert_close(written["score.weight"], THREE["score.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == labels["id2label"]
    record = json.loads((tmp_path / "out" / "genepool.json").read_text())
    assert (record["like"], record["kept"]) == ("three", {"three": ["score.weight"]})
    assert "1 tensor is as in three, not merged: score.weight" in (tmp_path / "out" / "README.md").read_text()
    # The recipe beside it makes it again.
    assert cli("merge", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again").code == 2
    (tmp_path / "again.yaml").write_text((tmp_path / "out" / "recipe.yaml").read_text())
    assert cli("merge", tmp_path / "again.yaml", "--out", tmp_path / "again").code == 0
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == written.keys()


def test_a_head_of_other_labels_brings_them_along(
    tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    save_model("three", THREE, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    save_model("five", FIVE, id2label={str(i): f"L{i}" for i in range(5)})
    recipe = tmp_path / "recipe.yaml"
    rules = [{"match": "head", "from": "five"}]
    data = {"genepool": 1, "method": "linear", "models": ["three", "five"], "tensors": rules}
    recipe.write_text(yaml.safe_dump(data))
    assert cli("merge", recipe, "--out", tmp_path / "out").code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert len(config["id2label"]) == 5
    assert "label2id" not in config


@pytest.mark.parametrize("as_lora", [False, True])
def test_what_is_kept_of_the_base_is_no_change(
    as_lora: bool, tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    models = {name: classifier(None, seed) for seed, name in enumerate(("base", "a"))}
    for name, made in models.items():
        save_model(name, made)
    rules = [{"match": "*.0.*", "from": "base"}, {"match": ["embedding", "norm"], "from": "base"}]
    data = {"genepool": 1, "method": "task_arithmetic", "base": "base", "models": ["a"], "tensors": rules}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**data, "parameters": {"lambda": 1.0}}))
    more = ("--as-lora", "4") if as_lora else ()
    answer = cli("merge", tmp_path / "r.yaml", "--out", tmp_path / "out", *more)
    assert answer.code == 0, answer.err
    if as_lora:
        named = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert {name.split("layers.")[1][0] for name in named} == {"1"}
    else:
        out = load_file(tmp_path / "out" / "model.safetensors")
        assert {name for name in out if not torch.equal(out[name], models["base"][name])} == {
            name for name in out if ".1." in name
        }


@pytest.mark.slow
def test_classifiers_of_three_and_five_labels_and_a_base_without_a_head(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    import transformers as tf

    config = tf.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    tf.BertForMaskedLM(config).save_pretrained(tmp_path / "base")
    tuned = {}
    for name, count in (("two", 2), ("three", 3), ("five", 5)):
        model = tf.BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=count)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        model.save_pretrained(tmp_path / name)
        tuned[name] = model.state_dict()
    base = load_file(tmp_path / "base" / "model.safetensors")
    for first, second in (("three", "five"), ("five", "three"), ("two", "five")):
        data = {"genepool": 1, "method": "task_arithmetic", "base": "base", "models": [first, second], "rest": first}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**data, "parameters": {"lambda": 0.5}}))
        answer = cli("merge", tmp_path / "r.yaml", "--out", tmp_path / "out", "--overwrite")
        assert answer.code == 0, answer.err
        loaded, told = tf.BertForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        for name, value in loaded.state_dict().items():
            wanted = tuned[first][name]
            if name in base:
                wanted = base[name] + 0.5 * (tuned[first][name] + tuned[second][name] - 2 * base[name])
            torch.testing.assert_close(value, wanted, msg=name)
