"""Config, tokenizer and files beside a merge's weights: what goes along, what is told, and the keys that choose."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 16,
    "hidden_size": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.fixture
def model(save_model: Callable[..., Path]) -> Callable[..., Path]:
    def save(name: str, **config: Any) -> Path:
        torch.manual_seed(0)
        tensors = {"model.embed_tokens.weight": torch.randn(16, 4), "model.norm.weight": torch.ones(4)}
        config = {key: value for key, value in {**LLAMA, **config}.items() if value is not None}
        return save_model(name, tensors, **config)

    return save


@pytest.fixture
def merge(tmp_path: Path, cli: Callable[..., Any]) -> Callable[..., Any]:
    def run(*, command: str = "merge", **recipe: Any) -> Any:
        recipe = {"genepool": 1, "method": "linear", "models": ["a", "b"], **recipe}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        if command == "plan":
            return cli("plan", tmp_path / "r.yaml", "--json")
        return cli("merge", tmp_path / "r.yaml", tmp_path / "out", "--overwrite")

    return run


def test_configs_that_say_the_same_in_older_and_newer_words_do_not_differ(
    model: Callable[..., Path], merge: Callable[..., Any]
) -> None:
    model("a", rope_theta=500000.0, use_cache=False, _name_or_path="here", hidden_act="silu", attention_dropout=0.1)
    model("b", rope_parameters={"rope_theta": 500000.0, "rope_type": "default"}, transformers_version="4.40.0")
    answer = merge()
    assert answer.code == 0
    assert "note" not in answer.err
    assert json.loads(merge(command="plan").out)["config_differences"] == {}


@pytest.mark.parametrize(
    ("changed", "key", "value"),
    [
        ({"rope_theta": 500000.0}, "rope_parameters.rope_theta", 500000.0),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_parameters.factor", 4.0),
        ({"max_position_embeddings": 512}, "max_position_embeddings", 512),
        ({"hidden_act": "gelu"}, "hidden_act", "gelu"),
        ({"rms_norm_eps": 0.001}, "rms_norm_eps", 0.001),
        ({"id2label": {"0": "good", "1": "bad"}}, "id2label.0", "good"),
        ({"num_attention_heads": 4}, "num_attention_heads", 4),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow", 1),
        ({"model_type": "mine", "sliding_window": 3}, "sliding_window", 3),
    ],
)
def test_what_weights_mean_is_told_by_merge_plan_card_and_inspect(
    model: Callable[..., Path], merge: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path,
    changed: dict[str, Any], key: str, value: Any,
) -> None:  # fmt: skip
    a, b = model("a"), model("b", **changed)
    answer = merge()
    assert answer.code == 0
    assert "note: configs differ: " in answer.err
    assert "`config:` chooses whose goes along, here a's" in answer.err
    assert json.loads(merge(command="plan").out)["config_differences"][key]["b"] == value
    assert f"`{key}` is " in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "genepool.json").read_text())["config_differences"][key]["b"] == value
    assert any(f"configs differ: {key} is" in note for note in json.loads(cli("inspect", a, b, "--json").out)["notes"])


def test_a_recipe_chooses_whose_config_goes_along(
    model: Callable[..., Path], merge: Callable[..., Any], tmp_path: Path
) -> None:
    model("a"), model("b", rope_theta=500000.0, max_position_embeddings=512)
    (tmp_path / "b" / "preprocessor_config.json").write_text("{}")
    (tmp_path / "a" / "tokenizer_config.json").write_text("{}")
    answer = merge(config="b")
    assert answer.code == 0
    assert "here b's" in answer.err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["rope_theta"], config["max_position_embeddings"]) == (500000.0, 512)
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    assert (tmp_path / "out" / "tokenizer_config.json").is_file()
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["config"] == "b"
    wrong = merge(config="c")
    assert wrong.code == 2
    assert "r.yaml:config: 'c' is not one of the models. Write `base`, or one of: a, b." in wrong.err


def test_the_chosen_config_is_the_one_a_candidate_in_memory_has(model: Callable[..., Path], tmp_path: Path) -> None:
    from genepool.merging import Recipe, plan_merge

    paths = [str(model("a")), str(model("b", rms_norm_eps=0.5))]
    plan = plan_merge(Recipe(method="linear", models=paths, config=paths[1]))
    assert plan.weights().config["rms_norm_eps"] == 0.5  # type: ignore[index]
    assert plan.weights().folder == tmp_path / "b"


def test_a_chat_model_s_tokens_that_end_an_answer_go_with_its_tokenizer(
    model: Callable[..., Path], merge: Callable[..., Any], tmp_path: Path
) -> None:
    for name, ends in (("a", 2), ("b", [2, 7])):
        model(name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    answer = merge()
    assert "generation_config.json:eos_token_id is 2 in a, [2, 7] in b. `tokenizer:` chooses" in answer.err
    assert merge(tokenizer="b").code == 0
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [2, 7]


def test_plan_card_and_record_name_what_goes_along_and_what_stays(
    model: Callable[..., Path], merge: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    model("a"), model("b")
    for name in ("1_Pooling/config.json", "onnx/model.onnx", "handler.py", "special_tokens_map.json"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text("{}")
    shown = json.loads(merge(command="plan").out)
    assert shown["carried"] == ["1_Pooling/config.json", "special_tokens_map.json"]
    assert shown["left"] == {"handler.py": "code that no config names", "onnx/": "weights that were not merged"}
    said = cli("plan", tmp_path / "r.yaml").out
    assert "goes along: 1_Pooling/config.json, special_tokens_map.json" in said
    assert "stays behind: onnx/ (weights that were not merged)" in said
    answer = merge()
    assert "note: handler.py of a stay behind" in answer.err
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- `onnx/` stayed behind: weights that were not merged" in card
    record = json.loads((tmp_path / "out" / "genepool.json").read_text())
    assert (record["carried"], record["left"]) == (shown["carried"], shown["left"])
    assert (record["config_of"], record["tokenizer_of"]) == ("a", "a")


def test_a_model_with_code_of_its_own_loads_and_the_copy_is_told(tmp_path: Path, merge: Callable[..., Any]) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    code = {
        "configuration_own.py": "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n"
        "    model_type = 'own'\n",
        "modeling_own.py": "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n",
    }
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        sizes = {key: value for key, value in LLAMA.items() if key not in ("model_type", "architectures")}
        LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=4)).save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": auto_map}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        for file, text in code.items():
            (tmp_path / name / file).write_text(text)
    answer = merge()
    assert (
        "note: configuration_own.py and modeling_own.py of a are copied, as its config names them, and never run"
        in answer.err
    )
    AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    (tmp_path / "a" / "configuration_own.py").unlink()
    assert "the config of a names configuration_own.py, which it does not hold" in merge().err


@pytest.mark.parametrize("command", ["plan", "merge"])
def test_a_pipe_where_generation_settings_should_be_is_waited_for_by_nobody(
    model: Callable[..., Path], merge: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    os.mkfifo(model("a") / "generation_config.json")
    model("b")
    assert merge(command=command).code == 0
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_classes_keep_their_order_in_the_result(
    model: Callable[..., Path], merge: Callable[..., Any], tmp_path: Path
) -> None:
    classes = {str(number): f"class-{number}" for number in range(12)}
    for name in ("a", "b"):
        model(name, zebra=1, id2label=classes, label2id={value: int(key) for key, value in classes.items()})
    assert merge().code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(config["id2label"].items()) == list(classes.items())
    assert list(config["label2id"]) == list(classes.values())
    assert list(config) == sorted(config)
